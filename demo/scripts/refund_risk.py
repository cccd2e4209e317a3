"""Scores how unusual a refund is, from 0 to 100.  JSON in on stdin, JSON out on stdout."""

import json
import sys

given = json.load(sys.stdin)
order, amount = given["order"], given["amount"]
customer = order["customer"]

reasons = []
score = 10
if customer["refunds"] >= 0.5 * customer["orders"]:
    score += 45
    reasons.append(f"{customer['refunds']} of {customer['orders']} orders were refunded before")
if amount > 500:
    score += 20
    reasons.append("the amount is above EUR 500")
if amount > order["total"]:
    score += 100
    reasons.append("more than was paid is asked for")
if order["daysSinceDelivery"] > 30:
    score += 20
    reasons.append(f"delivered {order['daysSinceDelivery']} days ago")
score = min(score, 100)

level = "high" if score >= 60 else "medium" if score >= 30 else "low"
print(f"risk of {order['orderId']}: {level} ({score})", file=sys.stderr)  # goes to the step's log
json.dump({"score": score, "level": level, "reasons": reasons}, sys.stdout)
