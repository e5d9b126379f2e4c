#!/bin/sh
# Your own CSV: train two methods on it, compare them beside the baselines, and label texts with one of them.
# Needs reviews.csv, with the columns review and stars; leaves two runs in models/, and labelled.csv.
set -eu
loratory train --method standard --dataset reviews.csv --text-column review --label-column stars --output models/csv-standard
loratory train --method lora --dataset reviews.csv --text-column review --label-column stars --output models/csv-lora
loratory compare models/csv-standard models/csv-lora
loratory predict --model-path models/csv-lora --input reviews.csv --output labelled.csv
