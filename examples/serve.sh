#!/bin/sh
# A merged model behind a stock server: trained, exported, and served by transformers' pipeline, FastAPI and uvicorn.
# Needs reviews.csv, with the columns review and stars, serve.py beside this file, and: pip install fastapi uvicorn
set -eu
if ! test -d models/served; then
    loratory train --method lora --dataset reviews.csv --text-column review --label-column stars --output models/to-serve
    loratory export --model-path models/to-serve --format merged --output models/served
fi
# Then, elsewhere: curl -H "Content-Type: application/json" -d '{"text": "A quiet, funny film."}' localhost:8000/classify
export MODEL=models/served
exec uvicorn --app-dir examples serve:app --port "${PORT:-8000}"
