"""Write vectors.json: assignments as docs/experiments.md says, by hashlib alone."""

import hashlib
import json
import struct
from pathlib import Path


def number(salt: str, texts: list[str]) -> int:
    """The number of a unit for a salt, from 0 to 2**64 - 1."""
    packed = bytes([0x90 + len(texts)])  # MessagePack: an array of texts
    for data in (text.encode() for text in texts):
        head = bytes([0xA0 + len(data)]) if len(data) < 32 else b"\xd9" + struct.pack("B", len(data))
        packed += head + data
    salted = hashlib.blake2b(packed, digest_size=8, salt=hashlib.blake2b(salt.encode(), digest_size=16).digest())
    return int.from_bytes(salted.digest(), "little")


def reason(case: dict, texts: list[str]) -> str:
    """The variant of a unit that takes part, or else why it does not."""
    begin, end = case["slots"]
    if number("holdout\0", texts) % 10_000 < round(case["holdout"] * 10_000):
        return "holdout"
    if end - begin < 10_000 and not begin <= number(f"layer\0{case['layer']}", texts) % 10_000 < end:
        return "other slots"
    if case["every_us"]:
        texts = [str(case["at_us"] // case["every_us"]), *case["region"]]
    own = number(f"experiment\0{case['experiment']}\0{case['generation']}", texts)
    if own % 10_000 >= round(case["share"] * 10_000 / (end - begin) * 10_000):
        return "not in share"
    if case["every_us"] and case["at_us"] % case["every_us"] < case["gap_us"]:
        return "carry-over gap"
    bucket = own // 10_000 % 10_000
    for count, variant in case["buckets"]:
        if bucket < count:
            return variant
        bucket -= count
    raise AssertionError("there are fewer than 10,000 buckets")


HALVES = [[5_000, "control"], [5_000, "green"]]
PLAIN = {"experiment": "checkout", "generation": 1, "layer": "", "slots": [0, 10_000], "holdout": 0.0, "share": 1.0}
PLAIN |= {"buckets": HALVES, "every_us": 0, "gap_us": 0, "at_us": 0, "region": []}
CASES = [
    PLAIN,
    PLAIN | {"generation": 2},
    PLAIN | {"experiment": "späte_flüge", "share": 0.3},
    PLAIN | {"layer": "shop", "slots": [2_500, 7_500], "share": 0.4, "holdout": 0.05},
    PLAIN | {"buckets": [[4_000, "control"], [1_000, "red"], [5_000, "green"]], "holdout": 0.5},
    PLAIN | {"every_us": 3_600_000_000, "gap_us": 600_000_000, "at_us": 1_700_000_000_000_000, "region": ["DE", "7"]},
    PLAIN | {"every_us": 3_600_000_000, "gap_us": 600_000_000, "at_us": 1_700_002_900_000_000, "region": []},
]
UNITS = [["1"], ["2"], ["customer-17"], ["Zoë"], ["DE", "1"], [""], ["x" * 40], *([f"unit-{n}"] for n in range(13))]

if __name__ == "__main__":
    rows = [{**case, "units": [[unit, reason(case, unit)] for unit in UNITS]} for case in CASES]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    Path(__file__).with_name("vectors.json").write_text(f"[\n{lines}\n]\n", "utf-8")
