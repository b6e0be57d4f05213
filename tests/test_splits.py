"""Splits: by name and seed alone, references on one side, published ones read right, and what is refused."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from experiments import data_flags
from experiments.data_sets import splits
from experiments.data_sets.data_set import DataSet, Item
from experiments.data_sets.splits import Shares
from experiments.errors import UserError

SHARES = Shares(0.7, 0.1, 0.2)


def data_set(names, references=None, parts=None):
    items = [
        Item(name, name, float(i), references and references[i], parts[i] if parts else {})
        for i, name in enumerate(names)
    ]
    return DataSet("set", Path(), tuple(items), None, "table.csv")


PLAIN = data_set([f"{i}.png" for i in range(50)])
COPIES = data_set([f"r{i // 6}_{i % 6}.png" for i in range(60)], [f"refs/R{i // 6}.png" for i in range(60)])


def flags(**settings):
    return data_flags.Data(data="table.csv", **settings)


def names(split):
    return {part: set(found) for part, found in split.names().items()}


def test_drawn_splits_depend_on_names_and_seed_alone():
    split = splits.drawn(PLAIN, 3, SHARES)
    assert [len(part) for part in split[1:]] == [35, 5, 10]
    assert set.union(*names(split).values()) == {item.name for item in PLAIN.items}
    backwards = dataclasses.replace(PLAIN, items=PLAIN.items[::-1])
    assert splits.drawn(backwards, 3, SHARES).sha256() == split.sha256()
    assert splits.drawn(PLAIN, 4, SHARES).sha256() != split.sha256()
    # A new image moves few others: the rest keep their order.
    more = dataclasses.replace(PLAIN, items=(*PLAIN.items, Item("new.png", "new.png", 1.0)))
    assert len(names(splits.drawn(more, 3, SHARES))["test"] & names(split)["test"]) >= 9
    # Pinned, so that no later change shifts published splits.
    assert split.sha256().startswith("88a349dd4a37")


def test_copies_of_a_reference_stay_together():
    split = splits.drawn(COPIES, 0, SHARES)
    sides = [{item.reference for item in part} for part in split[1:]]
    assert [len(side) for side in sides] == [7, 1, 2]
    assert len(set.union(*sides)) == 10
    carved = splits.with_validation(splits.without_validation(split), 0, 0.25)
    assert len({item.reference for item in carved.validation}) == 2
    assert names(carved)["test"] == names(split)["test"]
    assert not {item.reference for item in carved.validation} & {item.reference for item in carved.train}


def test_published_columns():
    parts = [{"official_split": ("train", "validation", "test")[i % 3], "ratio_01": "train"} for i in range(9)]
    parts[0]["ratio_01"] = "validation"  # what pyiqa holds out is called val
    data = data_set([f"{i}.png" for i in range(9)], parts=parts)
    official = splits.from_column(data, "official_split")
    assert names(official)["validation"] == {"1.png", "4.png", "7.png"}
    held_out = splits.from_column(data, "ratio_01")
    assert names(held_out)["test"] == {"0.png"}
    assert not held_out.validation
    with pytest.raises(UserError, match="which has: official_split, ratio_01"):
        splits.from_column(data, "split")


def test_numbered_columns_are_several_splits():
    parts = [{f"ratio_{k:02}": "validation" if i % 3 == k else "train" for k in (1, 2)} for i in range(9)]
    data = data_set([f"{i}.png" for i in range(9)], parts=parts)
    first, second = data_flags.split_all(flags(split="ratio", splits=2), data, 0, validation=True)
    assert names(first)["test"] == {"1.png", "4.png", "7.png"}
    assert names(second)["test"] == {"2.png", "5.png", "8.png"}
    assert len(first.validation) == 1  # taken from the training part


def test_splits_in_files(tmp_path):
    split = splits.drawn(PLAIN, 1, SHARES)
    path = tmp_path / "split.json"
    path.write_text(json.dumps(split.names()))
    assert splits.from_file(PLAIN, path).sha256() == split.sha256()
    order = list(range(50))[::-1]
    path.write_text(json.dumps({"order": order}))
    by_order = splits.from_file(PLAIN, path)
    ordered = [item.name for item in PLAIN.items][::-1]
    assert names(by_order)["train"] == set(ordered[:40])
    (tmp_path / "test.csv").write_text("filename,mos\n" + "".join(f"{name},1\n" for name in ordered[40:]))
    assert splits.from_file(PLAIN, tmp_path / "test.csv").sha256() == by_order.sha256()


def test_the_split_of_the_gradient_norm_study(shared):
    """Its order of rows and the names that its successor tests on give the same split of LIVE In the Wild."""
    folder = shared / "data" / "clive"
    order = json.loads((folder / "nt_split_index.json").read_text())["order"]
    with (folder / "livec-test.csv").open(newline="") as file:
        tested = [row["filename"] for row in csv.DictReader(file)]
    # The table of the set, as far as the two files tell: its test images at their rows, others at the other rows.
    table = [f"other{row}.png" for row in range(1162)]
    for row, name in zip(order[930:], tested, strict=True):
        table[row] = name
    by_order = splits.from_file(data_set(table), folder / "nt_split_index.json")
    assert names(by_order)["test"] == set(tested)
    assert splits.from_file(data_set(table), folder / "livec-test.csv").sha256() == by_order.sha256()


def test_bad_splits_are_refused_in_one_sentence(tmp_path):
    def refused(content, data=PLAIN, **settings):
        path = tmp_path / f"s{settings.pop('suffix', '.json')}"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(UserError) as caught:
            data_flags.split_all(flags(**{"split": str(path), **settings}), data, 0, validation=True)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "0.png is in test and in train" in refused({"train": ["0.png"], "test": ["0.png", "1.png"]})
    assert "names 1 images that table.csv has not" in refused({"train": ["0.png"], "test": ["elsewhere.png"]})
    assert "an empty test part" in refused({"train": ["0.png", "1.png"]})
    assert "an empty train part" in refused({"test": [item.name for item in PLAIN.items]})
    assert "overlaps: r0.png is in train and in test" in refused(
        {"train": ["r0_0.png", "r1_0.png"], "test": ["r0_1.png"]}, COPIES
    )
    assert "orders 3 images, but table.csv has 50" in refused({"order": [0, 1, 2]})
    assert "holds none of train" in refused({"rows": []})
    assert "cannot be read" in refused("{")
    assert "a single one" in refused({"test": ["0.png"]}, splits=3)
    assert "names 1 images" in refused("filename\nelsewhere.png", suffix=".csv")
    assert "--splits=0" in refused({}, splits=0)
    for shares in ("70,30", "70,10,30", "0,50,50", "100,0,0", "a,b,c"):
        assert f"--shares={shares} must be" in refused({}, shares=shares)
    assert "leaves nothing to choose an epoch by" in refused({}, split="", shares="80,0,20")
    assert "an empty test part" in refused({}, data_set(["a.png"]), split="")
