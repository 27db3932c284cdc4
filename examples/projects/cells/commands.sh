#!/bin/sh
# From files to results. Run it in this folder; ROWS=100 EPOCHS=1 SAMPLES=5 for a quick look.
set -e
ROWS=${ROWS:-1200} EPOCHS=${EPOCHS:-30} SAMPLES=${SAMPLES:-50}

python make_data.py --rows $ROWS

# what would be trained
multipyro train mopoe --data cells.toml --hidden 128 128 --latent-dim 10 --epochs $EPOCHS --batch-size 64 --dry-run

# three methods, trained and compared by paired likelihoods of the same held-out cells
multipyro compare mopoe mvtcae mvae --data cells.toml --seeds 1 --epochs $EPOCHS --hidden 128 128 --latent-dim 10 --batch-size 64 --lr 2e-3 --num-samples $SAMPLES --rows 50 --out runs

# the proteins that were not measured, with their uncertainty
multipyro predict runs/mvtcae-cells-0 --part all --file imputed/mvtcae.csv
multipyro predict runs/mopoe-cells-0 --part all --file imputed/mopoe.csv
multipyro predict runs/mvae-cells-0 --part all --file imputed/mvae.csv
python ../measure.py cells imputed/mvtcae.csv imputed/mopoe.csv imputed/mvae.csv

# a table of latent positions with the names of the cells
multipyro embed runs/mopoe-cells-0 --part all --file embedding.csv

# the run and its data in another folder, and what can be shared without the data
mkdir -p moved/data
cp -r runs/mopoe-cells-0 moved/run
cp cells.toml cells.csv rna.npy moved/data
multipyro predict moved/run --data moved/data/cells.toml --part all --file moved/imputed.csv
cmp imputed/mopoe.csv moved/imputed.csv
multipyro export runs/mopoe-cells-0 --out moved/mopoe.zip
