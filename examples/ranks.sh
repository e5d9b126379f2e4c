#!/bin/sh
# How much rank do your own texts need? What three ranks cost, a study of them with its page, and how far it has come.
# Needs reviews.csv, with the columns review and stars, and ranks.yaml; leaves results/own-ranks with report.html.
set -eu
loratory estimate --method lora --ranks 1,4,16 --dataset reviews.csv --text-column review --label-column stars
loratory study run examples/ranks.yaml
loratory study status results/own-ranks
