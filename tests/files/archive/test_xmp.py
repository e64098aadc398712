import re

import pytest
import torch
from PIL import Image

from comfyui_exemplar.files.archive.xmp import HOLD_XMP, SOURCE_TYPE, add_xmp, described, read_xmp
from comfyui_exemplar.files.pictures import load_picture, read_photograph, save_picture

OWN = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="d" dc:creator="Ann" xmlns:e="x" e:DigitalSourceType="http://x/negativeFilm">
<e:DigitalSourceType>http://x/negativeFilm</e:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("suffix", HOLD_XMP)
@pytest.mark.parametrize("said", [None, OWN])
@pytest.mark.parametrize("width", [7, 8])
def test_a_file_says_where_its_colors_are_from(tmp_path, suffix, said, width):
    path = tmp_path / f"a{suffix}"
    save_picture(torch.rand(1, 5, width, 3), path)
    before = load_picture(path)
    assert add_xmp(path, said)
    assert torch.equal(load_picture(path), before)
    found = read_xmp(path)
    assert found is not None and found.count(SOURCE_TYPE) == 1 and "negativeFilm" not in found
    assert ('dc:creator="Ann"' in found) == (said is not None)
    with Image.open(path) as image:
        image.load()
        assert image.size == (width, 5)
    assert read_photograph(path).facts.profile is not None


@pytest.mark.parametrize("suffix", [".exr", ".bmp"])
def test_formats_without_a_place(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_picture(torch.rand(1, 5, 5, 3), path, bits=16 if suffix == ".exr" else 8)
    before = path.read_bytes()
    assert not add_xmp(path, None) and path.read_bytes() == before


def test_a_packet_that_is_too_long_for_a_jpeg(tmp_path):
    path = tmp_path / "a.jpg"
    save_picture(torch.rand(1, 5, 5, 3), path)
    add_xmp(path, OWN.replace("Ann", "A" * 70000))
    assert SOURCE_TYPE in read_xmp(path) and "AAAA" not in read_xmp(path)


@pytest.mark.parametrize("said", ["", "no packet", "<rdf:RDF></rdf:RDF></rdf:RDF>", "x" * 2_000_000])
def test_packets_that_are_none(tmp_path, said):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", said)
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png", pnginfo=info)
    assert read_xmp(tmp_path / "a.png") is None
    (tmp_path / "b.png").write_bytes(b"none")
    assert read_xmp(tmp_path / "b.png") is None


def test_described_is_well_formed():
    from xml.dom.minidom import parseString

    for said in (None, re.sub(r"\se:DigitalSourceType=\S+?\"(?=>)", "", OWN)):
        parseString(re.sub(r"<\?xpacket.*?\?>", "", described(said)))
