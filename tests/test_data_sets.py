"""Labelled data sets: the published ones in their own layouts, tables as pyiqa writes them, and what is refused."""

import numpy as np
import pytest
import small_sets
from PIL import Image
from small_sets import image

from experiments import data_flags, make_data_set, subjective
from experiments.catalog import DATA_SETS
from experiments.data_sets.data_set import Scale
from experiments.data_sets.reading import read_csv, read_folder
from experiments.data_sets.sheets import read_sheet
from experiments.errors import UserError


@pytest.mark.parametrize("name", DATA_SETS)
def test_published_layouts_are_read(name, tmp_path):
    expected = small_sets.MAKERS[name](tmp_path)
    known = DATA_SETS[name]
    data = read_folder(tmp_path, known)
    assert {item.name: (item.mos, item.reference) for item in data.items} == expected
    assert all(data.path(item).is_file() for item in data.items)
    assert data.scale == known.scale


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_missing_set_names_its_download_page(name, tmp_path):
    known = DATA_SETS[name]
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="download it from https://") as caught:
            read_folder(root, known)
        assert known.page in str(caught.value)
        assert "\n" not in str(caught.value)


def test_directions_are_those_of_the_makers_not_of_column_names():
    lower = {name for name, known in DATA_SETS.items() if known.scale and not known.scale.higher_is_better}
    assert lower == {"live", "csiq"}
    assert DATA_SETS["kadid10k"].scale == Scale(1.0, 5.0)  # its column is called dmos
    assert DATA_SETS["nips2017"].scale is None


# Headers as pyiqa's scripts write them, and others that its users meet; image, score and reference of the first row.
TABLES = {
    "koniq": ("img_name,mos,std,official_split,c1", "a.png,50.5,8,train,1", (50.5, None)),
    "spaq": ("Image name,MOS,Brightness,Colorfulness", "a.png,36.67,1,2", (36.67, None)),
    "tid": ("ref_name,dist_name,mos,std", "ref.png,a.png,5.51,0.1", (5.51, "ref.png")),
    "kadid": ("ref_name,dist_name,dmos,std", "ref.png,a.png,4.57,0.4", (4.57, "ref.png")),
    "pipal": ("hq_name,dist_name,elo_score", "ref.png,a.png,1437,", (1437.0, "ref.png")),
    "flive": ("img_name/patch_name,mos,split", "a.png,75,2", (75.0, None)),
    "koniq's own": ("image_name,c1,c2,c_total,MOS,SD", "a.png,0,1,105,64.9,8", (64.9, None)),
    "agiqa's own": ("name,prompt,mos_quality,mos_align", 'a.png,"one, two",0.97,4.1', (0.97, None)),
    "odd, without references": ("picture,opinion", "a.png,3", (3.0, None)),
    "odd, with references": ("original,copy,opinion", "ref.png,a.png,3", (3.0, "ref.png")),
    "no header": ("b.png,4", "a.png,3", (3.0, None)),
}


@pytest.mark.parametrize("kind", TABLES)
def test_columns_are_found_by_name_and_else_by_place(kind, tmp_path):
    header, row, expected = TABLES[kind]
    for name in ("a.png", "b.png", "ref.png"):
        image(tmp_path / name)
    path = tmp_path / "meta_info.csv"
    path.write_text(f"{header}\n{row}\n")
    item = read_csv(path, tmp_path).items[-1]
    assert (item.name, item.mos, item.reference) == ("a.png", *expected)


def test_a_table_of_pyiqa_is_known_by_its_name(tmp_path):
    for name in ("t1.bmp", "10.bmp", "1141.JPG"):
        image(tmp_path / "Images" / ("trainingImages" if name == "t1.bmp" else "") / name)
    path = tmp_path / "meta_info_LIVEChallengeDataset.csv"
    path.write_text("img_name,mos,std\nt1.bmp,63.9,1\n10.bmp,24.2,19\n1141.JPG,70.6,2\n")
    data = data_flags.load(data_flags.Data(data=str(path)))
    assert (data.name, data.scale) == ("livec", Scale(0.0, 100.0))
    assert [item.name for item in data.items] == ["10.bmp", "1141.JPG"]  # not what raters were trained on


def test_split_columns_keep_their_meaning(tmp_path):
    rows = ["img_name,mos,official_split,ratio802_seed123_split_01", "a.png,1,train,val", "b.png,2,test,train"]
    for name in ("a.png", "b.png"):
        image(tmp_path / "below" / name)
    (tmp_path / "m.csv").write_text("\n".join(rows))
    first, second = read_csv(tmp_path / "m.csv", tmp_path / "below").items
    assert first.parts == {"official_split": "train", "ratio802_seed123_split_01": "validation"}
    assert second.parts == {"official_split": "test", "ratio802_seed123_split_01": "train"}


def test_bad_sets_are_refused_in_one_sentence(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "one" / "c.png")
    image(tmp_path / "two" / "c.png")

    def refused(content=None, **settings):
        if content is not None:
            (tmp_path / "m.csv").write_text(content)
        with pytest.raises(UserError) as caught:
            data_flags.load(data_flags.Data(**{"data": str(tmp_path / "m.csv"), **settings}))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "1 of its 2 images are not there, such as b.png" in refused("image,mos\na.png,1\nb.png,2")
    assert "are not there, such as c.png" in refused("image,mos\nc.png,1")  # which of the two?
    assert "are not there" in refused("image,mos\n../a.png,1", images=str(tmp_path / "one"))
    assert "line 3 scores an image twice" in refused("image,mos\na.png,1\na.png,2")
    assert "has the file a.png more than once" in refused("image,mos\na.png,1\nx/a.png,2")
    assert "line 2 has no finite score" in refused("image,mos\na.png,nan")
    assert "lists no images" in refused("image,mos")
    assert "cannot be read as CSV" in refused(data=str(tmp_path / "absent.csv"))
    assert "one of live, csiq" in refused(data=str(tmp_path))
    assert "has no subjective scores" in refused(data=str(tmp_path), data_set="nips2017")
    assert "--mos_range=5" in refused("image,mos\na.png,1", mos_range="5")
    assert "--mos_range=5,5" in refused("image,mos\na.png,1", mos_range="5,5")
    scale = data_flags.load(data_flags.Data(data=str(tmp_path / "m.csv"), mos_range="100,0")).scale
    assert (scale.higher_is_better, scale.range) == (False, (0.0, 100.0))


def test_spreadsheets(tmp_path):
    path = tmp_path / "book.xlsx"
    small_sets.spreadsheet(path, {"one": [["a", None, 2.5]], "two": [[None], ["", "b"]]})
    assert read_sheet(path) == [["a", "", "2.5"]]
    assert read_sheet(path, "two") == [["", "b"]]
    with pytest.raises(ValueError, match="has no sheet 'three'"):
        read_sheet(path, "three")
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is not a spreadsheet"):
        read_sheet(path)


def test_tables_of_scores_keep_their_order(tmp_path):
    (tmp_path / "s.csv").write_text("image,score,note\nb.png,2,x\na.png,1,\n")
    table = subjective.read_table(tmp_path / "s.csv")
    assert (table.images, table.scores) == (["b.png", "a.png"], [2.0, 1.0])
    assert table.columns["note"] == ["x", ""]


def test_made_sets_are_read_and_continued(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        picture = Image.fromarray(np.roll(pixels, i, 0)).resize((170, 165), Image.Resampling.BICUBIC)
        picture.save(tmp_path / "photos" / f"p{i}.{'jpg' if i else 'png'}")
    settings = {"images": str(tmp_path / "photos"), "out": str(tmp_path / "set"), "kinds": "1,10"}
    table = make_data_set.run(make_data_set.Config(**settings))
    content = table.read_bytes()
    data = read_csv(table, table.parent)
    assert len(data.items) == 2 * 11
    assert {item.reference for item in data.items} == {"p0.png", "p1.png"}
    labels = {item.name: item.mos for item in data.items}
    assert labels["p0.png"] == 100.0
    assert labels["p0_01_01.png"] > labels["p0_01_05.png"]
    table.write_bytes(b"".join(content.splitlines(keepends=True)[:12]))  # as an interrupted run leaves it
    assert make_data_set.run(make_data_set.Config(**settings)).read_bytes() == content
    with pytest.raises(UserError, match="holds a run with kinds"):
        make_data_set.run(make_data_set.Config(**{**settings, "kinds": "2"}))
    with pytest.raises(UserError, match="--kinds=26"):
        make_data_set.run(make_data_set.Config(**{**settings, "kinds": "26"}))
    image(tmp_path / "photos" / "small.png")
    with pytest.raises(UserError, match="MS-SSIM needs at least 161"):
        make_data_set.run(make_data_set.Config(**settings))
