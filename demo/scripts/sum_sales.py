"""Adds up what the cities sold.  JSON in on stdin, JSON out on stdout."""

import json
import sys

cities = json.load(sys.stdin)["cities"]
best = max(cities, key=lambda city: city["revenue"])
total = round(sum(city["revenue"] for city in cities), 2)
json.dump({"total": total, "cities": len(cities), "best": best}, sys.stdout)
