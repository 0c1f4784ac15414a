"""Cleaning: a poisoned model and captioned pictures in, a model that has forgotten its backdoor out.

It optimises on pairs alone. No trigger, probe, policy or carrier reaches this package (an import contract), so
that the scan afterwards is an honest examination. `config` and `schedule` are light; the rest needs torch.
"""
