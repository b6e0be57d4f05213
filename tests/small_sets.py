"""Published data sets in miniature: their folders as their makers lay them out, with images of a few pixels."""

import zipfile
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def image(path, seed=0, size=(6, 5)):
    """A small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def spreadsheet(path: Path, sheets, shared=True):
    """An .xlsx file of ``{sheet: rows}``; texts are kept apart, as Excel does, or in their cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts: list[str] = []

    def cell(value, column, row):
        place = f"{chr(65 + column)}{row}"
        if isinstance(value, str) and shared:
            texts.append(value)
            return f'<c r="{place}" t="s"><v>{len(texts) - 1}</v></c>'
        if isinstance(value, str):
            return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'
        return "" if value is None else f'<c r="{place}"><v>{value}</v></c>'

    with zipfile.ZipFile(path, "w") as book:
        names = "".join(f'<sheet name="{name}" r:id="rId{i}"/>' for i, name in enumerate(sheets, 1))
        book.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{_MAIN}" xmlns:r="{_LINKS}"><sheets>{names}</sheets></workbook>'
        )
        links = "".join(f'<Relationship Id="rId{i}" Target="worksheets/s{i}.xml"/>' for i in range(1, len(sheets) + 1))
        book.writestr("xl/_rels/workbook.xml.rels", f"<Relationships>{links}</Relationships>")
        for i, rows in enumerate(sheets.values(), 1):
            body = "".join(
                f"<row>{''.join(cell(value, column, number) for column, value in enumerate(row))}</row>"
                for number, row in enumerate(rows, 1)
            )
            book.writestr(
                f"xl/worksheets/s{i}.xml", f'<worksheet xmlns="{_MAIN}"><sheetData>{body}</sheetData></worksheet>'
            )
        entries = "".join(f"<si><t>{text}</t></si>" for text in texts)
        book.writestr("xl/sharedStrings.xml", f'<sst xmlns="{_MAIN}">{entries}</sst>')


def cells(values):
    """A MATLAB cell array of texts."""
    found = np.empty((1, len(values)), object)
    found[0] = values
    return found


def live(root):
    folders = [("jp2k", 227), ("jpeg", 233), ("wn", 174), ("gblur", 174), ("fastfading", 174)]
    count = sum(number for _, number in folders)
    pristine = np.ones(count)
    pristine[[0, 227 + 232]] = 0  # jp2k/img1 and jpeg/img233
    image(root / "jp2k" / "img1.bmp")
    image(root / "jpeg" / "img233.bmp")
    scores = np.arange(count, dtype=float)[None]
    scipy.io.savemat(root / "dmos.mat", {"dmos": scores, "orgs": pristine[None]})
    scipy.io.savemat(root / "dmos_realigned.mat", {"dmos_new": scores / 10, "orgs": pristine[None]})
    scipy.io.savemat(root / "refnames_all.mat", {"refnames_all": cells([f"ref{i % 2}.bmp" for i in range(count)])})
    return {"jp2k/img1.bmp": (0.0, "ref0.bmp"), "jpeg/img233.bmp": (45.9, "ref1.bmp")}


def csiq(root):
    image(root / "dst_imgs" / "awgn" / "1600.AWGN.1.png")
    image(root / "dst_imgs" / "jpeg2000" / "aerial_city.jpeg2000.5.png")
    table = [
        [None],
        [None, None, None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"],
        [None, None, None, 1600, 1, "noise", 1, 0.02, 0.062],
        [None, None, None, "aerial_city", 3, "jpeg 2000", 5, 0.1, 0.93],
    ]
    spreadsheet(root / "csiq.DMOS.xlsx", {"readme": [["nothing"]], "all_by_image": table})
    return {"1600.AWGN.1.png": (0.062, "1600.png"), "aerial_city.jpeg2000.5.png": (0.93, "aerial_city.png")}


def tid2013(root):
    image(root / "distorted_images" / "i01_01_1.bmp")
    image(root / "distorted_images" / "I25_24_5.bmp")
    image(root / "reference_images" / "I01.BMP")
    (root / "mos_with_names.txt").write_text("5.51429 I01_01_1.bmp\n1.4 i25_24_5.bmp\n")
    return {"I01_01_1.bmp": (5.51429, "I01.BMP"), "i25_24_5.bmp": (1.4, "I25.BMP")}


def kadid10k(root):
    image(root / "images" / "I01.png")
    image(root / "images" / "I01_01_01.png")
    image(root / "images" / "I02_01_01.png")
    (root / "dmos.csv").write_text(
        "dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.57,0.496\nI02_01_01.png,I02.png,1.1,0.2\n"
    )
    return {"I01_01_01.png": (4.57, "I01.png"), "I02_01_01.png": (1.1, "I02.png")}


def livec(root):
    image(root / "Images" / "trainingImages" / "t1.bmp")
    image(root / "Images" / "10.bmp")
    image(root / "Images" / "1141.JPG")
    (root / "Data").mkdir()
    names = np.empty((3, 1), object)
    names[:, 0] = ["t1.bmp", "10.bmp", "1141.JPG"]
    scipy.io.savemat(root / "Data" / "AllImages_release.mat", {"AllImages_release": names})
    scipy.io.savemat(root / "Data" / "AllMOS_release.mat", {"AllMOS_release": np.array([[63.9, 24.2, 70.6]])})
    return {"10.bmp": (24.2, None), "1141.JPG": (70.6, None)}


def koniq10k(root):
    image(root / "512x384" / "10004473376.jpg")
    image(root / "512x384" / "2.jpg")
    (root / "koniq10k_distributions_sets.csv").write_text(
        "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set\n"
        "10004473376.jpg,0,0,25,73,7,105,64.95,8.0,training\n2.jpg,0,3,45,47,1,96,50.4,9.0,test\n"
    )
    return {"10004473376.jpg": (64.95, None), "2.jpg": (50.4, None)}


def spaq(root):
    image(root / "TestImage" / "00001.jpg")
    image(root / "TestImage" / "00002.jpg")
    rows = [["Image name", "MOS", "Brightness"], ["00001.jpg", 36.67, 10], ["00002.jpg", 62.67, 20]]
    spreadsheet(root / "Annotations" / "MOS and Image attribute scores.xlsx", {"Sheet1": rows}, shared=False)
    return {"00001.jpg": (36.67, None), "00002.jpg": (62.67, None)}


def flive(root):
    image(root / "voc" / "a.jpg")
    image(root / "blur" / "a.jpg")
    (root / "labels_image.csv").write_text("name,mos\nvoc/a.jpg,75.5\nblur/a.jpg,60\n")
    (root / "labels640.csv").write_text("name_image,mos_image\nblur/a.jpg,60\n")
    (root / "labels=640_padded.csv").write_text("name_image,is_valid\nvoc/a.jpg,False\n")
    return {"voc/a.jpg": (75.5, None), "blur/a.jpg": (60.0, None)}


def bid(root):
    image(root / "DatabaseImage0001.JPG")
    image(root / "DatabaseImage0012.JPG")
    rows = [["Image Number", "Average Subjective Grade", "std"], [1, 4.2, 0.3], [12, 0.9, 0.1]]
    spreadsheet(root / "DatabaseGrades.xlsx", {"Plan1": rows})
    return {"DatabaseImage0001.JPG": (4.2, None), "DatabaseImage0012.JPG": (0.9, None)}


def pipal(root):
    image(root / "Distortion_1" / "A0001_00_00.bmp")
    image(root / "Distortion_2" / "A0002_03_01.bmp")
    (root / "Train_Label").mkdir()
    (root / "Train_Label" / "A0001.txt").write_text("A0001_00_00.bmp,1437.2\n")
    (root / "Train_Label" / "A0002.txt").write_text("A0002_03_01.bmp,1210.5\n")
    return {"A0001_00_00.bmp": (1437.2, "A0001.bmp"), "A0002_03_01.bmp": (1210.5, "A0002.bmp")}


def agiqa3k(root):
    image(root / "AGIQA-3K" / "AttnGAN_normal_000.jpg")
    image(root / "AGIQA-3K" / "b.jpg")
    (root / "data.csv").write_text(
        "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align\n"
        'AttnGAN_normal_000.jpg,"a tray, of sushi",,,,0.97,0.2,4.0,0.6\nb.jpg,x,,,,3.5,0.2,1.0,0.6\n'
    )
    return {"AttnGAN_normal_000.jpg": (0.97, None), "b.jpg": (3.5, None)}


def nips2017(root):
    image(root / "images" / "0aebe.png")
    return {"0aebe.png": (None, None)}


MAKERS = {
    maker.__name__: maker
    for maker in (live, csiq, tid2013, kadid10k, livec, koniq10k, spaq, flive, bid, pipal, agiqa3k, nips2017)
}
