"""The networks that measures look through: Inception for distances of sets, AlexNet for LPIPS.

Inception v3 (Szegedy et al., CVPR 2016, arXiv 1512.00567) as the field uses it for FID, in two spellings, is
:mod:`.inception`; LPIPS (Zhang et al., CVPR 2018, arXiv 1801.03924) is :mod:`.perceptual`. Both are written here since
the libraries that have them (pytorch-fid, torch-fidelity, lpips, pyiqa) all import torchvision, which must fit the
installed torch to the letter. Start at :mod:`.files`: which well-known files of weights a folder has.
"""
