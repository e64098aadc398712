"""Every door of names, tried with names that lead outside; prints what was opened, as JSON (``test_security.py``).

``python tests/security_walk.py FOLDER``: a process of its own, since what it listens with stays for good.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "stand_in"), str(HERE.parent)]

#: What is told of: files that are opened, folders that are listed or changed, lines that are laid, programs that start.
LINES = ("socket.", "subprocess.", "ctypes.dlopen")
TOLD = ("open", "os.", "shutil.", *LINES)


def main(folder: Path) -> dict:
    import folder_paths

    from tests.fixtures.foreign_names import LOADERS, foreign, make
    from tests.fixtures.package import load_package

    places = make(folder)
    folder_paths.models_dir = str(places.base / "models")
    for name in ("input", "output", "temp", "user"):
        setattr(folder_paths, f"{name}_directory", str(places.base / name))
    folder_paths.add_model_folder_path("embeddings", str(places.models("embeddings")))

    nodes = {node.define_schema().node_id: node for node in load_package().NODES}
    from comfyui_exemplar.hosts.comfy import embeddings, folders, output, photographs

    doors = {node: getattr(folders, kind.upper()).path for node, kind in LOADERS.items()}
    doors["ExemplarLoadPhotograph"] = photographs.path_of
    doors["ExemplarLoadPhotographFolder"] = photographs.files_of
    writers = {"ExemplarConceptInversion": embeddings.place, "ExemplarSavePhotograph": output._check_place}
    writers |= dict.fromkeys(
        ("ExemplarSaveMemory", "ExemplarSaveInversion", "ExemplarColorizeVideo"), output._check_place
    )
    inputs = {
        **dict.fromkeys(LOADERS, "model_name"),
        "ExemplarLoadMemory": "memory_name",
        "ExemplarLoadInversion": "inversion_name",
        "ExemplarLoadPhotograph": "image",
        "ExemplarLoadPhotographFolder": "folder",
        "ExemplarConceptInversion": "name",
        "ExemplarSavePhotograph": "filename_prefix",
        "ExemplarSaveMemory": "filename_prefix",
        "ExemplarSaveInversion": "filename_prefix",
        "ExemplarColorizeVideo": "filename_prefix",
    }
    right = {"ExemplarLoadPhotograph": "secret.png", "ExemplarLoadPhotographFolder": "scans"}
    for node, find in doors.items():  # what is listed is found; all that is imported late is imported now
        assert find(right.get(node, "secret" if "CLIPSeg" in node else "secret.safetensors")), node

    told, taken, tried = [], [], 0

    def listen(event, found):
        if event.startswith(LINES):
            told.append([event, repr(found)])
        elif event.startswith(TOLD):
            # the second one of two may be a path, too; a number is a file or a folder that is open already
            paths = found[:1] if event == "open" else found[:2]
            told.extend([event, os.fsdecode(path)] for path in paths if isinstance(path, (str, bytes, os.PathLike)))

    sys.addaudithook(listen)
    (places.outside / "secret.png").read_bytes()  # it listens
    heard = [path for _, path in told if not places.holds(path)]
    told.clear()
    for node, input_id in inputs.items():
        for name in foreign(node, places):
            tried, verdict = tried + 1, True
            try:
                verdict = nodes[node].validate_inputs(**{input_id: name})
                if node in right:
                    nodes[node].fingerprint_inputs(**{input_id: name})
                (doors.get(node) or writers[node])(name)
                refused = node in writers
            except (ValueError, FileNotFoundError) as error:
                refused = (node in writers or verdict is not True) and "not for others" not in str(error)
            except OSError:
                refused = False
            if not refused:
                taken.append([node, name[:200]])
    program = [os.path.realpath(root) for root in (sys.prefix, sys.base_prefix, HERE.parent, "/proc")]
    elsewhere = [
        [event, path]
        for event, path in told
        # names below a folder that is open already are told without it
        if event.startswith(LINES)
        or (os.path.isabs(path) and not places.holds(path) and not os.path.realpath(path).startswith(tuple(program)))
    ]
    return {"tried": tried, "heard": len(heard), "taken": taken, "elsewhere": elsewhere, "inputs": inputs}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
