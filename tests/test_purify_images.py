"""Purified copies of a folder of images."""

import csv

import jax
import numpy as np
import pytest
from scipy import ndimage

from experiments import purify_images, records


def rows_of(out):
    return {row["image"]: row for row in csv.DictReader((out / "rows.csv").open())}


def test_copies_are_what_the_purifier_makes_of_each_image(photo_folder, tmp_path, script):
    out = tmp_path / "out"
    code, printed, _ = script(purify_images, purifier="median_blur:size=5", images=photo_folder, out=out)
    assert code == 0
    assert "7 of 7 images purified" in printed
    for name, row in rows_of(out).items():
        clean = records.load_image(photo_folder / name)
        copy = records.load_image((out / "purified" / name).with_suffix(".png"))
        np.testing.assert_array_equal(copy, ndimage.median_filter(clean, (5, 5, 1), mode="mirror"))
        error = np.mean((copy / 255.0 - clean / 255.0) ** 2)
        assert float(row["psnr"]) == pytest.approx(-10 * np.log10(error), abs=1e-3)


def test_random_purifiers_draw_by_name_and_seed(photo_folder, tmp_path):
    def copies(out, **settings):
        config = purify_images.Config(
            purifier="random_noise", images=str(photo_folder), out=str(tmp_path / out), **settings
        )
        purify_images.run(config)
        folder = tmp_path / out / "purified"
        return {name: records.load_image(folder / name) for name in records.list_images(folder)}

    first, alone, other = copies("a"), copies("b", batch_size=1), copies("c", seed=1)
    assert all(np.array_equal(first[name], alone[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_chains_resizing_and_a_second_run(photo_folder, tmp_path, script):
    out = tmp_path / "out"
    settings = {"purifier": "resize:scale=0.5,unsharp:size=3", "images": photo_folder, "out": out}
    script(purify_images, **settings)
    before = (out / "rows.csv").read_bytes()
    assert {(row["height"], row["purified_height"]) for row in rows_of(out).values()} == {("40", "20"), ("56", "28")}
    (out / "purified" / "p0.png").unlink()
    rows = (out / "rows.csv").read_text().splitlines(keepends=True)
    (out / "rows.csv").write_text("".join(row for row in rows if not row.startswith("p0")))
    script(purify_images, **settings)
    assert (out / "rows.csv").read_bytes() == before
    assert (out / "purified" / "p0.png").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"purifier": "nothing"}, "there is no 'nothing'"),
        ({"purifier": "jpeg:preset=7"}, "--purifier: jpeg:preset=7: "),
        ({"purifier": "jpeg:size=3"}, "it has no setting 'size'"),
        ({"purifier": ""}, "is empty"),
        ({"batch_size": 0}, "must be at least 1"),
        ({"images": "nowhere"}, "does not exist"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(photo_folder, tmp_path, refusal, settings, words):
    asked = {"purifier": "jpeg", "images": str(photo_folder), "out": str(tmp_path / "out"), **settings}
    assert words in refusal(purify_images, **asked)


def test_devices_make_no_difference(photo_folder, tmp_path):
    for devices in range(1, jax.local_device_count() + 1):
        config = {"purifier": "gaussian_blur", "images": str(photo_folder), "out": str(tmp_path / str(devices))}
        purify_images.run(purify_images.Config(**config, devices=devices))
    assert len({(tmp_path / str(n) / "rows.csv").read_bytes() for n in range(1, jax.local_device_count() + 1)}) == 1
