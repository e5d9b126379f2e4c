"""What serve.sh starts: the model in the directory $MODEL, by transformers' own pipeline; Loratory is not needed here.
POST {"text": "..."} to /classify gives the label and every class's probability; /docs describes it."""

import os

from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

MAX_LENGTH = 128  # tokens, as in training: the exported model's card says how many, its tokenizer does not

classifier = pipeline("text-classification", model=os.environ["MODEL"], top_k=None)
app = FastAPI()


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    label: str
    probabilities: dict[str, float]


@app.post("/classify")
async def classify(question: Question) -> Answer:  # async: one at a time, as threads may not share a tokenizer
    (found,) = classifier([question.text], truncation=True, max_length=MAX_LENGTH)
    best, *_ = found  # the most probable first
    return Answer(label=best["label"], probabilities={one["label"]: one["score"] for one in found})
