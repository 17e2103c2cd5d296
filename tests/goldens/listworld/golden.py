"""Makes golden.jsonl: requests, responses and verdicts by a second definition of the list world's oracle.

    python3 golden.py > golden.jsonl
"""
import json
import random

CATS = {
    "animals": "ape bear cat dog eagle fox goat horse iguana jackal koala lion",
    "fruits": "apple banana cherry date elderberry fig grape kiwi lemon mango nectarine orange",
    "colours": "amber blue crimson denim ebony fuchsia green hazel indigo jade lilac maroon",
    "tools": "axe brush chisel drill edger file gouge hammer jack knife ladder mallet",
    "foods": "avocado bread cheese dumpling egg fries gravy ham icecream jelly lasagna muffin",
    "clothes": "apron boots coat dress earmuffs frock gloves hat jacket kilt leggings mittens",
    "vehicles": "ambulance bus car dinghy ferry glider helicopter jeep kayak limousine minivan plane",
    "jobs": "actor baker clerk dentist editor farmer guard hunter inventor jeweller lawyer miner",
}
CATS = {k: v.split() for k, v in CATS.items()}
CAT_OF = {w: c for c, ws in CATS.items() for w in ws}
NUM = ["zero", "one", "two", "three", "four", "five"]
ORDERS = {"any": [], "alpha": "in alphabetical order".split(), "reverse": "in reverse order".split()}


def oracle(n, cat, order, polite, resp):
    """kind, count, distinct, order, closing: 1 where it holds."""
    ws, th = (resp[:-1], True) if resp and resp[-1] == "thanks" else (resp, False)
    if not ws or any(w not in CAT_OF for w in ws):
        return [0] * 5
    return [
        int(all(CAT_OF[w] == cat for w in ws)),
        int(len(ws) == n),
        int(len(set(ws)) == len(ws)),
        int(order == "any" or ws == sorted(ws, reverse=order == "reverse")),
        int(th == polite),
    ]


def response(r, n, cat, order):
    ws = r.sample(CATS[cat], max(0, n + r.choice([0, 0, 0, 0, 0, -1, 1, -2, 2])))
    if ws and r.random() < 0.25:
        ws[r.randrange(len(ws))] = r.choice(list(CAT_OF))
    if len(ws) > 1 and r.random() < 0.3:
        i, j = r.sample(range(len(ws)), 2)
        ws[i] = ws[j]
    if r.random() < 0.6:
        ws.sort(reverse=order == "reverse" or (order == "any" and r.random() < 0.5))
    ws += ["thanks"] * (r.random() < 0.5)
    if r.random() < 0.08:
        ws.insert(r.randrange(len(ws) + 1), r.choice(["thanks", "yes", "and", ":", "Ape", "score", "two"]))
    return ws


if __name__ == "__main__":
    r = random.Random(20)
    for _ in range(240):
        verb, n, cat = r.choice(["list", "name", "write"]), r.randint(2, 5), r.choice(list(CATS))
        order, polite = r.choice(list(ORDERS)), r.random() < 0.5
        request = [verb, NUM[n], cat] + ORDERS[order] + ["politely"] * polite
        answer = response(r, n, cat, order)
        row = {"request": " ".join(request), "response": " ".join(answer), "verdicts": oracle(n, cat, order, polite, answer)}
        print(json.dumps(row))
