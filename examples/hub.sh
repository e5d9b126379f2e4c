#!/bin/sh
# A model and a data set of the Hugging Face hub: trained, scored on the data's own test split, and asked.
# Needs the network the first time, and: pip install "loratory[hub]"; leaves a run in models/hub-lora.
set -eu
loratory data show hub:cornell-movie-review-data/rotten_tomatoes --model distilbert/distilbert-base-uncased
loratory train --method lora --model distilbert/distilbert-base-uncased \
    --dataset hub:cornell-movie-review-data/rotten_tomatoes --epochs 1 --output models/hub-lora
loratory evaluate --model-path models/hub-lora
loratory predict --model-path models/hub-lora "A quiet, funny film." "Two hours I will not get back."
