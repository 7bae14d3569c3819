"""`rnnfast bench`: this package against its peers, each contestant in a process of its own.

problems          the input, the same in every process
ours, numpy_peer, textbook_peer, torch_peer, jax_peer    what each contestant does with it
torch_modules     modules for PyTorch beside its own, in one process
programs          those of the textbook's chapters, over layers of either
textbook_loops    what textbook_peer has besides layers: optimizers, trainers, evaluation
worker            the process of a contestant
duel              contestants that are compared, then take turns
tables            what is measured, and which ratio is wanted
report            header, text, JSON, Markdown and plot
"""
