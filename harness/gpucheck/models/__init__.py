"""OLMo-2 shapes with random weights on the card: what a stage should take, and what it takes.

`cases` is the list of what is tried and the shapes' sizes, `cards` what a GPU can do at most, `sums` the
FLOPs, bytes and memory that a case needs, all without torch. `program` is run by an interpreter that has
torch and the train packages; it does the work through the stages' own code. `figures` puts the two sides
beside each other. No network, no weights from anywhere.
"""
