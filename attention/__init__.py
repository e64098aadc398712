"""The attention call and its edits. Tensors only: no host, no file, no picture.

Start at :mod:`.call`: one call of one layer, and what an edit of it is. :mod:`.layers` names and chooses layers;
:mod:`.fused` mixes attentions without building a map. Each other module is one edit or what it needs:

* exemplar: :mod:`.capture` fills a :mod:`.bank`, :mod:`.dual` injects from :mod:`.dual_banks`, which it reads through
  :mod:`.levels_on_device`; :mod:`.union` makes several references one; :mod:`.correspondence` shows where attention
  looks; :mod:`.ending` ends a call that is only read;
* VCT and prompt-to-prompt: :mod:`.control` with :mod:`.map_edits`, :mod:`.alignment`, :mod:`.windows`,
  :mod:`.word_maps`;
* L-CAD: :mod:`.instances` with :mod:`.phrases`, :mod:`.logits`;
* DEADiff: :mod:`.image_tokens`.
"""
