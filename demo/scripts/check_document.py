"""Looks at a text before a person does.  JSON in on stdin, JSON out on stdout."""

import json
import re
import sys

text = json.load(sys.stdin)["text"]
sentences = [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]
words = re.findall(r"\w+", text)
long = [sentence for sentence in sentences if len(re.findall(r"\w+", sentence)) > 30]
findings = [f"long sentence: {sentence[:80]}..." for sentence in long]
findings += [f"to be done: {mark}" for mark in sorted(set(re.findall(r"TODO|TBD|\?\?\?", text)))]
json.dump(
    {"words": len(words), "sentences": len(sentences), "findings": findings or ["nothing stands out"]},
    sys.stdout,
)
