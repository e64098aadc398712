"""The command colorize by a color memory: what it writes, which method it takes, and what it refuses before work."""

import argparse
import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from comfyui_exemplar.cli.sources import Source, reference
from comfyui_exemplar.color import ab_error, luminance
from comfyui_exemplar.files.memories import load_memory, save_memory
from comfyui_exemplar.files.pictures import load_picture
from comfyui_exemplar.memory.entries import empty

from ..fixtures.encoders import save
from ..fixtures.pictures import run, shapes, size_of

SMALL = ("--resolution", "32", "--no-sheet")


@pytest.fixture
def pictures(folder, monkeypatch):
    """Beside a gray picture and a reference: masks, a painted copy, gray and colored references."""
    monkeypatch.chdir(folder)
    half = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(half).rectangle((0, 0, 31, 63), fill=255)
    half.save("half.png")
    Image.new("L", (64, 64), 0).save("empty.png")
    painted = Image.open("gray.png").convert("RGB")
    ImageDraw.Draw(painted).rectangle((4, 4, 20, 20), fill=(200, 40, 40))
    painted.save("painted.png")
    Image.new("RGB", (40, 40), (200, 30, 60)).save("red.png")
    shapes(50, 40, "L").save("pale.png")
    Image.new("RGB", (8, 8), (128, 128, 128)).save("one-gray.png")
    shapes(48, 40, "L").rotate(180).save("other.png")
    return folder


def colored(name):
    found = load_picture(name)
    return found, float((found.amax(-1) - found.amin(-1)).mean())


class TestRuns:
    def test_everything_at_once(self, pictures, capsys):
        """References with mask and weight, strokes, a palette; saved, and used again for another picture."""
        sources = ("--reference", "reference.png@half.png*0.5", "--reference", "red.png", "--strokes", "painted.png")
        palette = ("--palette", "#c8102e, #2040a0 #0a6")
        assert run("colorize", "gray.png", *sources, *palette, "--save-memory", "m.safetensors", *SMALL) == 0
        shown = capsys.readouterr()
        assert shown.out.split() == ["m.safetensors", "gray_colored.png"]
        (said,) = [line for line in shown.err.splitlines() if "note: " in line]
        assert "--method memory, since only it takes --strokes, --palette and --save-memory" in said
        found, color = colored("gray_colored.png")
        assert size_of("gray_colored.png") == (48, 40) and color > 0.02
        assert (luminance(found) - luminance(load_picture("gray.png"))).abs().mean() < 0.5  # 8-bit rounding
        memory = load_memory(Path("m.safetensors"))
        assert memory.sources == ("reference.png", "red.png", "strokes")
        assert len(memory.marks) == len(memory.palettes) == 1
        # half of the first reference, at half the weight; all of the second
        first, second = (memory.source == number for number in range(2))
        assert int(first.sum()) * 2 == int(second.sum())
        assert memory.weight[first].max() == 0.5 and memory.weight[second].min() == 1
        assert run("colorize", "other.png", "--memory", "m.safetensors", *SMALL) == 0
        assert "note: --method memory, since only it takes --memory." in capsys.readouterr().err
        assert colored("other_colored.png")[1] > 0.02

    def test_a_saved_memory_gives_the_same_picture(self, pictures):
        by_memory = ("--method", "memory", *SMALL)
        keep = ("--save-memory", "m.safetensors", "--output", "a.png")
        assert run("colorize", "gray.png", "--reference", "reference.png", *keep, *by_memory) == 0
        assert run("colorize", "gray.png", "--memory", "m.safetensors", "--output", "b.png", *by_memory) == 0
        assert (pictures / "a.png").read_bytes() == (pictures / "b.png").read_bytes()

    def test_painted_places_have_the_painted_color(self, pictures):
        assert run("colorize", "gray.png", "--strokes", "painted.png", *SMALL) == 0
        mask = torch.zeros(1, 40, 48, dtype=torch.bool)
        mask[:, 6:18, 6:18] = True
        painted = load_picture("painted.png")
        # the merge keeps the gray picture's lightness, where not all of so strong a red exists
        assert float(ab_error(load_picture("gray_colored.png"), painted, mask)) < 0.5 * float(
            ab_error(load_picture("gray.png"), painted, mask)
        )

    def test_a_transparency_says_where_strokes_are(self, pictures):
        red = Image.new("RGBA", (48, 40), (200, 30, 60, 0))
        red.paste((200, 30, 60, 255), (4, 4, 20, 20))
        red.save("clear.png")
        assert run("colorize", "gray.png", "--strokes", "clear.png", "--save-memory", "m.safetensors", *SMALL) == 0
        (marks,) = load_memory(Path("m.safetensors")).marks
        assert int(marks.place.sum()) == 16 * 16

    def test_the_sheet_shows_confidence_and_source(self, pictures):
        arguments = ("colorize", "gray.png", "--method", "memory", "--resolution", "32")
        assert run(*arguments, "--reference", "reference.png") == 0
        one = size_of("gray_colored_sheet.png")
        assert run(*arguments, "--reference", "reference.png", "--reference", "red.png") == 0
        two = size_of("gray_colored_sheet.png")
        # input, result, confidence, source and the reference; then one more, as wide as it is high
        assert one[0] >= 4 * 256 + 256 and two == (one[0] + 256 + 6, one[1])

    def test_a_picture_does_not_depend_on_those_beside_it(self, pictures):
        arguments = ("--reference", "reference.png", "--method", "memory", *SMALL)
        assert run("colorize", "gray.png", "other.png", "--output", "out/", *arguments) == 0
        assert run("colorize", "other.png", "--output", "alone.png", *arguments) == 0
        assert (pictures / "out" / "other_colored.png").read_bytes() == (pictures / "alone.png").read_bytes()

    def test_one_gray_reference_among_others_is_told(self, pictures, capsys):
        sources = ("--reference", "pale.png", "--reference", "red.png")
        assert run("colorize", "gray.png", *sources, *SMALL) == 0
        assert "warning: pale.png has no color; what looks like it stays gray." in capsys.readouterr().err


class TestTheMethod:
    def test_attention_stays_what_one_reference_means(self, pictures, capsys):
        """Scripts from before the method could be chosen give the same bytes."""
        quick = ("--depth", "1", *SMALL)
        assert run("colorize", "gray.png", "--reference", "reference.png", "--output", "a.png", *quick) == 0
        assert "note" not in capsys.readouterr().err
        named = ("--method", "attention", "--output", "b.png")
        assert run("colorize", "gray.png", "--reference", "reference.png", *named, *quick) == 0
        assert (pictures / "a.png").read_bytes() == (pictures / "b.png").read_bytes()

    def test_attention_takes_a_mask(self, pictures):
        quick = ("--depth", "1", *SMALL)
        for name, source in (("all.png", "reference.png"), ("part.png", "reference.png@half.png")):
            assert run("colorize", "gray.png", "--reference", source, "--output", name, *quick) == 0
        assert (pictures / "all.png").read_bytes() != (pictures / "part.png").read_bytes()

    def test_attention_takes_several_references_of_any_size(self, pictures, capsys):
        shapes(40, 24).save(pictures / "tall.png")
        several = ("--reference", "reference.png@half.png*0.5", "--reference", "tall.png")
        quick = ("--depth", "1", "--passes", "1", "--resolution", "32")
        named = ("--method", "attention", "--output", "named.png", *quick)
        assert run("colorize", "gray.png", "other.png", *several, *named[:2], "--output", "out", *quick) == 0
        shown = capsys.readouterr()
        assert len(shown.out.split()) == 4 and "note" not in shown.err  # two results, each with its sheet
        assert run("colorize", "gray.png", *several, *named, "--no-sheet") == 0
        # a setting that only it takes says as much as --method; without either it is a memory
        assert run("colorize", "gray.png", *several, "--output", "found.png", *quick, "--no-sheet") == 0
        assert (pictures / "named.png").read_bytes() == (pictures / "found.png").read_bytes()
        assert size_of(pictures / "named.png") == (48, 40)
        one = (*several[:1], "reference.png@half.png", *named[:2], "--output", "one.png", *quick, "--no-sheet")
        assert run("colorize", "gray.png", *one) == 0
        assert (pictures / "named.png").read_bytes() != (pictures / "one.png").read_bytes()
        capsys.readouterr()
        assert run("colorize", "gray.png", *several, "--output", "memory.png", *SMALL) == 0
        assert "note: --method memory, which is the fast one of several references" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "options, expected",
        [
            ("--method attention --reference red.png --postprocess official", "which knows one reference only"),
            ("--method attention --strokes painted.png", "--method attention does not take --strokes"),
            ("--method attention --coherence 1 --palette #f00", "does not take --palette and --coherence"),
            ("--method memory --guidance 2", "--method memory does not take --guidance"),
            ("--strokes painted.png --passes 2", "attention alone takes --passes, --method memory alone --strokes"),
            ("--memory-keys int8 --depth 1", "alone takes --depth, --method memory alone --memory-keys"),
            ("--method memory --palette-by-lightness", "--palette-by-lightness is about --palette"),
        ],
    )
    def test_nothing_is_left_out_silently(self, pictures, no_work, capsys, options, expected):
        assert run("colorize", "gray.png", "--reference", "reference.png", *options.split()) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and expected in line

    def test_shared_settings_go_to_the_method(self, pictures, no_work, capsys):
        arguments = ("colorize", "gray.png", "--reference", "reference.png", "--method", "memory")
        with pytest.raises(AssertionError, match="a model was loaded"):
            run_through(*arguments, "--layers", "fine", "--resolution", "64", "--batch", "2")


def run_through(*arguments):
    """The command without what turns errors into lines."""
    from comfyui_exemplar import cli

    options = cli.parser([arguments[0]]).parse_args([str(each) for each in arguments])
    return options.run(options)


@pytest.fixture
def no_work(monkeypatch):
    """None of these may get as far as a model."""
    from comfyui_exemplar.hosts.diffusers import checkpoint

    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(checkpoint, "load_standalone", refuse)


class TestRefusedBeforeAModelIsLoaded:
    @pytest.mark.parametrize(
        "options, expected",
        [
            ("--reference reference.png@empty.png", "its mask empty.png covers nothing, expected some white"),
            ("--method memory --reference reference.png@empty.png", "its mask empty.png covers nothing"),
            ("--method memory --reference pale.png", "--reference pale.png: found no color"),
            ("--reference pale.png --reference one-gray.png", "pale.png, one-gray.png: found no color"),
            ("--strokes gray.png", "--strokes gray.png: found none that cover anything"),
            ("--strokes painted.png@small.png", "no picture small.png"),
            ("--strokes painted.png@empty.png", "--strokes painted.png: its mask empty.png covers nothing"),
            ("--strokes red.png", "found 40 x 40 pixels on gray.png of 48 x 40, expected one size"),
            ("--reference red.png --palette one-gray.png", "--palette one-gray.png: found nothing but gray"),
            ("--reference red.png --palette #777", "--palette #777: found nothing but gray"),
            ("--reference red.png --palette none.png", "no picture none.png"),
            ("--reference red.png --reference none.png", "no picture none.png"),
            ("--memory none.safetensors", "none.safetensors does not exist"),
            ("--memory red.png", "red.png"),
            ("--strokes painted.png --save-memory m.pt", "m.pt ends in '.pt'"),
            ("--strokes painted.png --save-memory taken.safetensors", "taken.safetensors is there already"),
            ("--memory own.safetensors --save-memory own.safetensors", "would replace own.safetensors"),
            ("--strokes painted.png --output painted.png", "would replace painted.png, which is --strokes"),
            ("--reference red.png*2 --output red.png", "would replace red.png, which is --reference"),
            ("--strokes painted.png --top -3", "--top is -3; it must lie between"),
        ],
    )
    def test_message(self, pictures, no_work, capsys, options, expected):
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, "taken.safetensors")
        save_memory(pictures / "own.safetensors", empty())
        before = {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()}
        assert run("colorize", "gray.png", *options.split()) == 1
        shown = capsys.readouterr()
        (line,) = shown.err.splitlines()
        assert line.startswith("error: ") and expected in line and shown.out == ""
        assert {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()} == before

    @pytest.mark.parametrize(
        "options, expected",
        [
            ((), "--reference (or --strokes, --memory or --inversion)"),
            (("--palette", "#f00"), "--reference (or --strokes, --memory or --inversion)"),
            (("--reference", "a.png*0"), "'a.png*0' has the weight 0, expected a number above 0"),
            (("--reference", "a.png*nan"), "has the weight nan"),
            (("--reference", "a.png*1*2"), "more than one weight"),
            (("--reference", "a.png*much"), "ends in *much, expected a number"),
            (("--reference", "@mask.png"), "no name of a file"),
            (("--palette", "#12345"), "expected colors such as #c8102e"),
        ],
    )
    def test_usage(self, capsys, options, expected):
        with pytest.raises(SystemExit) as stop:
            run("colorize", "gray.png", *options)
        (line,) = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and expected in line and "usage: comfyui_exemplar" in line

    @pytest.mark.parametrize("fingerprint, options", [("0" * 12, ()), (None, ("--context", "1"))])
    def test_a_memory_of_another_model(self, pictures, capsys, fingerprint, options):
        keep = ("--save-memory", "m.safetensors", "--method", "memory", *SMALL)
        assert run("colorize", "gray.png", "--reference", "red.png", *keep) == 0
        memory = load_memory(Path("m.safetensors"))
        if fingerprint:
            other = dataclasses.replace(memory, made=dataclasses.replace(memory.made, fingerprint=fingerprint))
            save_memory(Path("m.safetensors"), other)
        capsys.readouterr()
        assert run("colorize", "gray.png", "--memory", "m.safetensors", *options, *SMALL) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert line.startswith("error: --memory m.safetensors: found ") and "write it again" in line


class TestAnEncoder:
    """A vision encoder in place of the diffusion model."""

    def test_a_memory_of_its_own(self, pictures, capsys):
        save(pictures / "dino", "Dinov2")
        encoder = ("--encoder", "dino", *SMALL)
        keep = ("--save-memory", "m.safetensors", "--layers", "block.1,block.3")
        assert run("colorize", "gray.png", "--reference", "reference.png", *keep, *encoder) == 0
        assert colored("gray_colored.png")[1] > 0.01
        made = load_memory(Path("m.safetensors")).made
        assert [space.name for space in made.spaces] == ["block.1", "block.3"] and made.name == "dino"
        # asked with the blocks that it was written with
        assert run("colorize", "other.png", "--memory", "m.safetensors", *encoder) == 0
        capsys.readouterr()
        assert run("colorize", "other.png", "--memory", "m.safetensors", *SMALL) == 1
        assert "found a memory of the model dino (DINOv2-" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "options, expected",
        [
            ("--model red.png", "--model is about a diffusion model"),
            ("--prediction v", "--prediction is about"),
            ("--timestep 5", "--timestep is about"),
            ("--method attention", "--method attention does not take --encoder"),
        ],
    )
    def test_what_it_has_no_use_for(self, pictures, capsys, options, expected):
        arguments = ("colorize", "gray.png", "--reference", "red.png", "--encoder", "none", *options.split())
        assert run(*arguments) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert expected in line

    def test_none(self, pictures, capsys):
        assert run("colorize", "gray.png", "--reference", "red.png", "--encoder", "none") == 1
        assert "none does not exist; look at what is named after --encoder" in capsys.readouterr().err


class TestHowAReferenceIsWritten:
    @pytest.mark.parametrize(
        "text, expected",
        [
            ("a.png", Source("a.png")),
            ("a.png*2", Source("a.png", weight=2)),
            ("a.png@m.png", Source("a.png", "m.png")),
            ("a.png@m.png*.5", Source("a.png", "m.png", 0.5)),
            ("me@home/a.png@m.png", Source("me@home/a.png", "m.png")),
            ("odd@name*2.png", Source("odd@name*2.png")),  # there is such a file
            ("odd@name*2.png*3", Source("odd@name*2.png", weight=3)),
        ],
    )
    def test_parts(self, tmp_path, monkeypatch, text, expected):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "odd@name*2.png").touch()
        found = reference(text)
        assert (str(found.path), found.weight) == (expected.path, expected.weight)
        assert (None if found.mask is None else str(found.mask)) == expected.mask

    @pytest.mark.parametrize("text", ["", " ", "a\0b", "a.png*", "a.png*-1", "a.png*1e9", "a.png@"])
    def test_what_is_none(self, text):
        with pytest.raises(argparse.ArgumentTypeError):
            reference(text)
