"""What goes with what: the pack's edits beside ComfyUI's own nodes, as one table.

The tests in ``tests/comfy/inside/crossings`` make every cell true in a real ComfyUI, and ``crossings_page`` makes the
help page of it. Nothing is imported here, so that both can.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Outcomes of a cell. TOGETHER: the result is what both say. WARNED: the same, and one warning a run says something.
#: ASIDE: the edit leaves alone what it can't read, with one warning a run. REFUSED: an error by name, before any
#: result. NOTHING: the two don't meet.
TOGETHER, WARNED, ASIDE, REFUSED, NOTHING = "together", "warned", "aside", "refused", "nothing"
_LETTERS = {"T": TOGETHER, "W": WARNED, "A": ASIDE, "R": REFUSED, "-": NOTHING}

#: Columns: key -> node id, and what stands behind its name where a node has several ways.
COLUMNS = {
    "capture": ("ExemplarDDIMInversion", ""),
    "injection": ("ExemplarDualAttentionColor", ""),
    "deadiff": ("ExemplarApplyDEADiff", ""),
    "fusion": ("ExemplarConceptFusion", ""),
    "prompts": ("ExemplarPromptControl", ""),
    "instances": ("ExemplarLCADInstances", "schedule: one pass"),
    "instances_official": ("ExemplarLCADInstances", "schedule: official"),
    "lcad": ("ExemplarLoadLCAD", "attention: official"),
}


@dataclass(frozen=True)
class Row:
    """A node of ComfyUI, or a way to use one, beside each of the pack's edits.

    :param keys: what the tests call it, one key for each node of the row.
    :param name: what ComfyUI calls it.
    :param cells: one letter a column of ``COLUMNS``.
    :param notes: language -> a sentence or two; "" for none.
    """

    keys: tuple[str, ...]
    name: str
    cells: str
    notes: dict[str, str]

    def outcome(self, column: str) -> str:
        """Of a cell."""
        return _LETTERS[self.cells.replace(" ", "")[list(COLUMNS).index(column)]]


def _row(keys: str, name: str, cells: str, en: str = "", zh: str = "", ja: str = "") -> Row:
    return Row(tuple(keys.split()), name, cells, {"en": en, "zh": zh, "ja": ja})


# columns:        capture, injection, deadiff, fusion, prompts, instances, instances (official), lcad (official)
ROWS = {
    "guidance": (
        _row(
            "RescaleCFG CFGZeroStar CFGNorm APG TCFG FreSca Mahiro",
            "RescaleCFG, CFGZeroStar, CFGNorm, Adaptive Projected Guidance, Tangential Damping CFG, FreSca, Mahiro",
            "T T T T T T T T",
            "They work on the finished predictions. Before or after our node is the same.",
            "它们处理已完成的预测，放在本节点之前或之后都一样。",
            "出来上がった予測に働きます。前後どちらに置いても同じです。",
        ),
        _row(
            "PAG SAG SLG SLGSimple",
            "Perturbed-Attention Guidance, Self-Attention Guidance, Skip Layer Guidance (DiT)",
            "T T T T T T T T",
            "Their own model calls run under the same edit, so guidance does not amplify it. An inversion keeps the "
            "first call of a level.",
            "它们自己的模型调用也在同一编辑下运行，引导不会放大编辑。反演保留每一级的第一次调用。",
            "これらが行うモデル呼び出しも同じ編集のもとで動くので、ガイダンスが編集を増幅しません。"
            "インバージョンは各レベルの最初の呼び出しを保持します。",
        ),
        _row(
            "NAG",
            "Normalized Attention Guidance",
            "T T T T T T T T",
            "It needs both prompts in one model call; where memory is short ComfyUI splits them, and it does nothing. "
            "In Prompt Control it acts on the target alone.",
            "它需要两个提示词在同一次模型调用中；内存不足时 ComfyUI 会拆开，它就不起作用。在提示词控制中只作用于目标。",
            "二つのプロンプトが一度の呼び出しにあることが必要です。"
            "メモリが足りないと ComfyUI が分けるため、働きません。"
            "「プロンプト制御」ではターゲットだけに働きます。",
        ),
        _row(
            "PerpNeg",
            "Perp-Neg (the deprecated patch)",
            "T W W W W W W W",
            "Its empty prompt is not one of the sampler's; it is drawn by the plain model, and one warning says so. "
            "Perp-Neg Guider has no such prompt.",
            "它的空提示词不属于采样器，由原模型预测，并给出一条警告。Perp-Neg Guider 没有这个问题。",
            "その空のプロンプトはサンプラーのものではないので元のモデルで予測し、警告を一つ出します。"
            "Perp-Neg Guider にはこの問題がありません。",
        ),
        _row(
            "BasicGuider DualCFGGuider PerpNegGuider DualModelGuider",
            "Basic Guider, Dual CFG Guider, Perp-Neg Guider, Dual Model CFG Guider",
            "- T T - - T T T",
            "The edit acts on the positive prompt (cond1) only. Concept Fusion and Prompt Control are guiders "
            "themselves.",
            "编辑只作用于正面提示词（cond1）。概念融合与提示词控制本身就是引导器。",
            "編集はポジティブ（cond1）だけに働きます。「コンセプト融合」と「プロンプト制御」は自身がガイダーです。",
        ),
    ),
    "patches": (
        _row("FreeU FreeU_V2", "FreeU, FreeU_V2", "T T T T T T T T"),
        _row(
            "DeepShrink",
            "PatchModelAddDownscale (Kohya Deep Shrink)",
            "T T T T T T T T",
            "",
            "",
            "",
        ),
        _row(
            "DeepShrinkFine",
            "Deep Shrink on the sampling MODEL only, over layers that are colored",
            "T A T T T T T T",
            "Put it on the MODEL that inverts as well; else injection leaves the layers alone whose tokens it shrinks.",
            "也把它放在反演用的模型上；否则注入会跳过被缩小的层。",
            "インバージョンに使うモデルにも置いてください。そうしないと、縮小された層では注入が退きます。",
        ),
        _row(
            "HyperTile",
            "HyperTile (tiles smaller than the picture)",
            "R A T A A T A A",
            "Self-attention on tiles can't follow another picture. Where it acts the edit steps aside; an inversion "
            "refuses. Take it off.",
            "分块的自注意力无法跟随另一张图像。它起作用的层编辑会退让；反演会拒绝。请移除它。",
            "タイルに分けた自己アテンションは別の画像に従えません。それが働く層では編集が退き、インバージョンは拒否します。外してください。",
        ),
        _row("HyperTileWhole", "HyperTile (tiles as large as the picture)", "T T T T T T T T"),
        _row(
            "ToMe",
            "Token Merging (TomePatchModel)",
            "R A T A A T A A",
            "As with HyperTile, in the finest layers. Take it off.",
            "与 HyperTile 相同，发生在最细的层。请移除它。",
            "HyperTile と同じで、最も細かい層で起こります。外してください。",
        ),
        _row("AttentionBackend", "Model Attention Backend", "T T T T T T T T"),
        _row(
            "TorchCompile",
            "TorchCompileModel",
            "T T T T T T T T",
            "Connect it last.",
            "请接在最后。",
            "最後につないでください。",
        ),
        _row(
            "ModelSampling",
            "ModelSamplingDiscrete",
            "T W T W T T T T",
            "Invert and sample under the same one. With lcm an inversion has at most 49 steps.",
            "反演与采样要用同样的设置。lcm 时反演最多 49 步。",
            "インバージョンとサンプリングで同じ設定を使ってください。lcm ではインバージョンは最大 49 ステップです。",
        ),
        _row(
            "AttentionMultiply",
            "UNet Self-Attention Multiply",
            "T T T T T T T T",
            "It changes weights, as a LoRA does: invert with it as well.",
            "它像 LoRA 一样改变权重：反演时也请使用。",
            "LoRA と同じく重みを変えます。インバージョンにも使ってください。",
        ),
        _row(
            "EasyCache LazyCache",
            "EasyCache, LazyCache",
            "R T T T T T T T",
            "Skipped steps repeat the last edited prediction. An inversion refuses where a level was skipped.",
            "被跳过的步骤重复上一次编辑后的预测。反演若有级别被跳过则拒绝。",
            "飛ばしたステップは直前の編集済みの予測を繰り返します。インバージョンはレベルが飛ばされると拒否します。",
        ),
        _row(
            "ContextWindows",
            "Context Windows (Manual), over a batch of pictures",
            "R T T R R T T R",
            "Windows are told apart by their pictures. What pairs or keeps whole batches refuses.",
            "各窗口按其图像区分。需要成对或保留整个批次的节点会拒绝。",
            "ウィンドウは画像ごとに見分けます。バッチ全体を対にする、または保持するものは拒否します。",
        ),
    ),
    "prompts": (
        _row("Combined", "Conditioning (Combine)", "T T T T - T T T"),
        _row(
            "Masked",
            "Conditioning (Set Mask), default",
            "T T T T - T T T",
            "Several prompts with masks that together cover the picture.",
            "多个带遮罩的提示词，合起来覆盖整张图像。",
            "合わせて画像全体を覆う、マスク付きの複数のプロンプト。",
        ),
        _row(
            "Ranged",
            "Conditioning (Set Timestep Range)",
            "R T T T - T T T",
            "An inversion refuses prompts that leave a step without any.",
            "若某一步没有任何提示词，反演会拒绝。",
            "どのプロンプトも働かないステップがあると、インバージョンは拒否します。",
        ),
        _row(
            "Area Bounds",
            "Conditioning (Set Area), mask bounds",
            "R R T R - R R R",
            "A part of the picture has tokens of its own. Use Set Mask with default.",
            "图像的一部分有自己的令牌。请用 Set Mask 的 default。",
            "画像の一部には別のトークンがあります。Set Mask の default を使ってください。",
        ),
        _row("ControlNet", "Apply ControlNet", "T T T T - T T T"),
        _row(
            "HookLora HookKeyframes",
            "Create Hook LoRA, with and without keyframes",
            "T T T T - T T T",
            "Prompts with different hooks run in calls of their own; rows are told apart. Keyframes only go forward, "
            "but an inversion climbs: at all its levels the last one holds.",
            "带不同钩子的提示词在各自的调用中运行；各行能够区分。关键帧只会向前走，而反演是向上走的："
            "在其所有级别上生效的是最后一个。",
            "フックの違うプロンプトは別の呼び出しで動き、行は見分けられます。キーフレームは先へしか進みませんが、"
            "インバージョンは上っていくので、その全レベルで最後のキーフレームが効きます。",
        ),
    ),
    "weights": (
        _row(
            "Lora",
            "Load LoRA",
            "T T T T T T T T",
            "Inverting without it is a choice, not a mistake.",
            "反演时不用它是一种选择，不是错误。",
            "インバージョンで使わないのも一つの選び方で、誤りではありません。",
        ),
        _row(
            "Merge",
            "ModelMergeSimple and its kin",
            "T T T T T T T T",
            "A MODEL that a node merged counts as its first one; a merged checkpoint that was saved is a model of its "
            "own.",
            "节点合并的模型算作其第一个模型；保存后的合并检查点是另一个模型。",
            "ノードでマージしたモデルは一つ目のモデルとみなします。保存したマージ済みチェックポイントは別のモデルです。",
        ),
    ),
    "latents": (
        _row(
            "NoiseMask",
            "Set Latent Noise Mask, with added noise",
            "R R T R T T T T",
            "Color injection and Concept Fusion start from a noised latent, which would stay outside the mask: use "
            "their own mask inputs.",
            "色彩注入和概念融合从带噪 Latent 开始，遮罩外会留下噪声：请用它们自己的遮罩输入。",
            "色の注入とコンセプト融合はノイズ付きの潜在から始まり、マスクの外にノイズが残ります。それぞれのマスク入力を使ってください。",
        ),
        _row(
            "DifferentialDiffusion",
            "Differential Diffusion",
            "T T T T T T T T",
            "Without a noise mask it does nothing; with one see above.",
            "没有噪声遮罩时它不起作用；有遮罩时见上。",
            "ノイズマスクがなければ何もしません。あるときは上を見てください。",
        ),
    ),
    "ours": (
        _row(
            "Second",
            "A second node of the same kind",
            "- T T - - T T -",
            "The last one is on top: give it a mask.",
            "后一个在上：请给它遮罩。",
            "後のものが上になります。マスクを与えてください。",
        ),
        _row(
            "OnInjection",
            "Dual-Attention Color Injection before it",
            "- - T - - T T -",
        ),
        _row(
            "OnTokens",
            "Apply DEADiff before it",
            "T T T T T T T T",
        ),
        _row(
            "Learning",
            "Concept Inversion, Pivot Inversion on a MODEL with edits",
            "- W W - - W W W",
            "Edits take no part in learning; one warning says so.",
            "编辑不参与学习；会给出一条警告。",
            "編集は学習に加わりません。警告を一つ出します。",
        ),
    ),
}


def row_of(key: str) -> Row:
    """The row of a node by its key in the tests."""
    return next(row for rows in ROWS.values() for row in rows if key in row.keys)


def outcome(key: str, column: str) -> str:
    """Of a cell, by the key of a node in the tests and the key of a column."""
    return row_of(key).outcome(column)
