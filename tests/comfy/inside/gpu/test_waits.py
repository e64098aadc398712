import pytest, torch
from ..sampling import run_guider, Calls

@pytest.mark.parametrize("name", ["injection","deadiff","instances","instances_official","lcad","fusion","prompts"])
def test_table(gpu, column, name, embedded):
    c = column(name)
    marks=[]
    model = embedded[0]
    guider = c.guider(c.made(model)) if hasattr(c, "made") and name not in ("fusion","prompts") else c.guider(model)
    with Calls(model) as calls:
        run_guider(guider, c.latent, c.more_sigmas, callback=lambda *a: marks.append((len(gpu.events), len(calls.entered))))
    a,b = marks[-2][0], marks[-1][0]
    print("\n", name, "calls", marks[-1][1]-marks[-2][1])
    evs = gpu.events[a:b]
    from collections import Counter
    print(Counter((e.kind, e.place) for e in evs if e.ours))
    print("  elsewhere", Counter((e.kind, e.place) for e in evs if not e.ours))
