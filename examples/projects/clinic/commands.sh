#!/bin/sh
# From files to results. Run it in this folder; ROWS=100 EPOCHS=1 SAMPLES=5 for a quick look.
set -e
ROWS=${ROWS:-1000} EPOCHS=${EPOCHS:-60} SAMPLES=${SAMPLES:-100}

python make_data.py --rows $ROWS

# what would be trained
multipyro train mopoe --data clinic.toml --hidden 128 128 --latent-dim 8 --likelihood labs=normal:channels,scan=normal:learned --epochs $EPOCHS --batch-size 64 --dry-run

# three methods, trained and compared by paired likelihoods of the same held-out patients
multipyro compare mopoe mvtcae mvae --data clinic.toml --seeds 1 --epochs $EPOCHS --hidden 128 128 --latent-dim 8 --batch-size 64 --lr 3e-3 --likelihood labs=normal:channels,scan=normal:learned --num-samples $SAMPLES --rows 100 --out runs

# everything that is missing: laboratory values, notes and scans, a folder each
multipyro predict runs/mvtcae-clinic-0 --part all --file imputed/mvtcae
multipyro predict runs/mopoe-clinic-0 --part all --file imputed/mopoe
multipyro predict runs/mvae-clinic-0 --part all --file imputed/mvae
python ../measure.py clinic imputed/mvtcae imputed/mopoe imputed/mvae

# a table of latent positions with the numbers of the patients
multipyro embed runs/mopoe-clinic-0 --part all --file embedding.csv

# the run and its data in another folder, and what can be shared without the data
mkdir -p moved/data
cp -r runs/mopoe-clinic-0 moved/run
cp -r clinic.toml patients.csv scans moved/data
multipyro predict moved/run --data moved/data/clinic.toml --part all --file moved/imputed
cmp imputed/mopoe/predictions.csv moved/imputed/predictions.csv
multipyro export runs/mopoe-clinic-0 --out moved/mopoe.zip
