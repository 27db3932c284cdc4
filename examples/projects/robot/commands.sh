#!/bin/sh
# From files to results. Run it in this folder; ROWS=100 EPOCHS=1 SAMPLES=5 for a quick look.
set -e
ROWS=${ROWS:-1200} EPOCHS=${EPOCHS:-120} SAMPLES=${SAMPLES:-100}

python make_data.py --rows $ROWS

# what would be trained
multipyro train mopoe --data robot.toml --hidden 128 128 --latent-dim 8 --networks sound=mlp --weights joints=20,camera=0.2,sound=0.05 --epochs $EPOCHS --batch-size 64 --dry-run

# three methods, trained and compared by paired likelihoods of the same held-out moments
multipyro compare mopoe mvtcae mvae --data robot.toml --seeds 1 --epochs $EPOCHS --hidden 128 128 --latent-dim 8 --batch-size 64 --lr 3e-3 --weights joints=20,camera=0.2,sound=0.05 --networks sound=mlp --num-samples $SAMPLES --rows 100 --out runs

# the joint angles that were lost, with their uncertainty, and the images as files
multipyro predict runs/mvtcae-robot-0 --part all --impute --target joints --file imputed/mvtcae.csv
multipyro predict runs/mopoe-robot-0 --part all --impute --target joints --file imputed/mopoe.csv
multipyro predict runs/mvae-robot-0 --part all --impute --target joints --file imputed/mvae.csv
multipyro predict runs/mopoe-robot-0 --part all --impute --target camera --file imputed/images
python ../measure.py robot imputed/mvtcae.csv imputed/mopoe.csv imputed/mvae.csv

# a table of latent positions with the numbers of the moments
multipyro embed runs/mopoe-robot-0 --part all --file embedding.csv

# the run and its data in another folder, and what can be shared without the data
mkdir -p moved/data
cp -r runs/mopoe-robot-0 moved/run
cp robot.toml moments.csv camera.npy sound.npy moved/data
multipyro predict moved/run --data moved/data/robot.toml --part all --impute --target joints --file moved/imputed.csv
cmp imputed/mopoe.csv moved/imputed.csv
multipyro export runs/mopoe-robot-0 --out moved/mopoe.zip
