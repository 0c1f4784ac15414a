"""Cleaning: train a model with a backdoor on image-text pairs until the backdoor is gone.

Only image-text pairs are used. An import contract keeps triggers, probes, policies and images of scans out of this
package, so that the scan afterwards is independent. Only `train` and `losses` need torch.
"""
