"""The limits within which files from outside are read: size, depth, count and time. They are said here alone.

What exceeds one is refused by name. The real files that they were chosen for stay far below.
"""

# --- any file ---

FILE_BYTES = 256 << 20
"""Default maximum size of a file that is read as a whole."""

HOLES = 1 << 30
"""Bytes of a file that may be holes."""


# --- weights ---

HEADER_BYTES = 4 << 20
"""Largest size of a safetensors header; three thousand tensors take 300 KB."""

TENSORS = 20_000
"""Largest number of tensors in a checkpoint; the largest CLIPs have three thousand."""

TENSOR_NAME = 512
"""Largest length of a tensor's name; real ones stay below 100."""

MEMBERS = 100_000
"""Largest number of members of an archive; there is one per tensor."""

DIRECTORY_BYTES = 32 << 20
"""Largest size of an archive's directory: 300 bytes for each member."""

PICKLE_BYTES = 16 << 20
"""Largest size of `data.pkl`; a checkpoint of three thousand tensors with optimiser state has about one MiB."""

OPERATIONS = 500_000
"""Largest number of operations, enough for 20,000 tensors; the largest CLIPs have three thousand."""

RANK = 64
"""Largest number of dimensions of a tensor."""

KEY_LENGTH = 1024
"""Largest length of a storage's name."""

UNWRAPPED_BYTES = 64 << 20
"""Largest size of what is unpacked of a file that is no checkpoint, to search it for code."""

UNWRAPPED_MEMBERS = 256
"""Largest number of its members that are searched."""

UNWRAPPED_DEPTH = 5
"""Largest number of wrappings within one another."""

UNWRAPPED_SECONDS = 5.0
"""Seconds after which no further member is searched."""


# --- configurations and tokenizers ---

CONFIG_BYTES = 1 << 20
"""Largest size of a configuration file; real ones have about one KiB."""

PATCHES = 1 << 14
"""Largest number of patches of an image; SigLIP at 512 px has 1024."""

TOKENIZER_BYTES = 64 << 20
"""Largest size of a tokenizer's file; the largest vocabularies take 35 MB."""

VOCABULARY_BYTES = 16 << 20
"""Largest size of the unpacked vocabulary; the real one has 3 MB."""

TRIED = 60
"""Seconds in which a tokenizer must be read and used once, also on a busy machine."""


# --- graphs ---

DESCRIPTION_BYTES = 1 << 20
"""Largest size of the description of a folder of graphs."""

GRAPH_BYTES = (2 << 30) - 1
"""Largest size of a graph, set by protobuf."""

NODES = 100_000
"""Largest number of nodes in a graph; the largest CLIPs have some thousands."""

LARGEST_SIDE = 1 << 21
"""Largest dimension of a tensor; no vocabulary has more words."""

LOGIT_SCALE = 1e6
"""Largest factor of a cosine; CLIP was trained with at most 100."""

TEMPLATES = 1000
"""Largest number of prompts in a description; CLIP's authors used 80."""

GRAPH_MEMORY = 1 << 30
"""Largest number of bytes that a graph may take for two inputs, besides four times its own size."""

GRAPH_SECONDS = 6
"""Seconds of the processor in which it must run on two inputs, besides those for its size."""

GRAPH_RATE = 32 << 20
"""Bytes of a graph for which it gets another second."""


# --- images ---

IMAGE_BYTES = 256 << 20
"""Largest file that is read; an image of `PIXELS` has 201 MB without compression."""

PIXELS = 1 << 26
"""Largest image that is decoded: 67 megapixels. A small file can claim to be a huge image."""

PLAIN_PIXELS = 1 << 22
"""Number of pixels up to which an image may be of one colour or of any shape."""

PIXELS_PER_BYTE = 256
"""Largest number of pixels per byte in an image of more than `PLAIN_PIXELS`. Photographs have up to 10; more would be
one colour, and take a second to decode."""

ELONGATED = 64
"""Largest size of a scaled image of more than `PLAIN_PIXELS`, in multiples of the model's input."""

IMAGE_READS = 500_000
"""Largest number of reads of one image: a header of a million empty markers is read byte by byte."""

RECORD_BYTES = 1 << 20
"""Largest size of a tar's header."""

CAPTION_BYTES = 1 << 20
"""Largest size of a label or caption."""

UNPACKED_BYTES = 16 << 20
"""Largest size of the unpacked images: `UNPACKED` times that of the files, and `UNPACKED_BYTES` more. An image that is
stored once can be in any number of rows."""


TABLE_BYTES = 1 << 30
"""Largest size of a table of images."""

COLUMNS = 1000
"""Largest number of its columns."""


# --- classes ---

CLASSES_BYTES = 16 << 20
"""Largest size of a list of classes."""

CLASSES = 100_000
"""Largest number of classes; WordNet has 82,000 nouns."""

CLASS_NAME = 1000
"""Largest length of a class's name; text towers cut it at some 300 letters."""


# --- policies ---

YAML_BYTES = 1 << 20
"""Largest size of a policy or an inventory."""

YAML_EVENTS = 60_000
"""Most keys, values and list ends; PyYAML reads about 20,000 of them a second."""

YAML_DEPTH = 32
"""Largest depth of its nesting."""


# --- reports, bundles, packs, ledgers ---

SUMS_BYTES = 4 << 20
"""Largest size of the checksums of a bundle."""

BUNDLE_DEPTH = 8
"""Largest depth of its folders."""

PARITY_BYTES = 1 << 20
"""Largest size of a parity report."""

SIGNATURE_BYTES = 4 << 20
"""Largest size of a model's signature, which lists its files, and of a key."""

LISTING_BYTES = 1 << 20
"""Largest `pack.json` that is read."""

PICTURE_BYTES = 4 << 20
"""Largest picture that is read."""

LEDGER_LINE = 1 << 20
"""Maximum length of a line, in bytes."""

LEDGER_BYTES = 1 << 30
"""Maximum size of a ledger, in bytes."""

DOCUMENT_BYTES = 64 << 20
"""Largest size of a report, a statement or a record in JSON."""

DOCUMENT_VALUES = 300_000
"""Largest number of values in one of them, by its commas."""

DIGITS = 19
"""Largest number of digits of a whole number in one of them: 64 bits."""
