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

SHARDS = 1000
"""Largest number of files that an index names; the largest CLIPs have a handful."""

TOWER_FOLDERS = 64
"""Largest number of names in a folder among which towers are looked for; pipelines have a dozen."""

STATE_DICT_DEPTH = 3
"""Largest number of dicts around the state dict of a training checkpoint."""

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

ADAPTERS = 8
"""Most adapters on one base."""

ADAPTER_RANK = 1 << 12
"""Largest rank of an adapter; most have 4 to 256, and one as wide as the layer could be any change of it."""

ADAPTER_ALPHA = 1e6
"""Largest alpha of an adapter."""

ADAPTER_NAMES = 1024
"""Largest number of names or patterns in one list of an adapter's configuration; the largest CLIPs have 500 layers."""

PATTERN_SECONDS = 4
"""Seconds of the processor in which the patterns of an adapter must be matched with the names of its base."""

PATTERN_BYTES = 1 << 30
"""Largest number of bytes of addresses that this may take."""

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

CONFIG_DIGITS = 64
"""Largest number of digits of a whole number in one; transformers writes 10³⁰ for no limit."""

FIELDS = {
    "embed_dim": (1, 1 << 14),
    "width": (1, 1 << 14),
    "heads": (1, 512),
    "head_width": (1, 1 << 14),
    "layers": (1, 256),
    "image_size": (8, 2048),
    "patch_size": (1, 4096),
    "context_length": (2, 1 << 14),
    "vocab_size": (2, 1 << 21),
    "mlp_ratio": (0.1, 32),
    "attn_pooler_queries": (1, 1 << 12),
    "attn_pooler_heads": (1, 512),
    "max_position_embeddings": (2, 1 << 14),
    "type_vocab_size": (1, 1 << 8),
    "project_dim": (1, 1 << 14),
}
"""Smallest and largest value of each field that decides on memory; the largest CLIPs stay below a quarter."""

MEANS = (0.0, 1.0)
DEVIATIONS = (1e-3, 1.0)
"""Smallest and largest mean and deviation of a colour in the preprocessing."""

ACTIVATION = 1 << 27
"""Largest number of values in one tensor for one image or caption; CLIPs of 1024 tokens take 17 million."""

PATCHES = 1 << 14
"""Largest number of patches of an image; SigLIP at 512 px has 1024."""

TOKENIZER_BYTES = 64 << 20
"""Largest size of a tokenizer's file; the largest vocabularies take 35 MB."""

VOCABULARY_BYTES = 16 << 20
"""Largest size of the unpacked vocabulary; the real one has 3 MB."""

TRIAL_SECONDS = 6
"""Seconds of the processor in which a tokenizer must be read and used once."""

TRIAL_BYTES = 3 << 29
"""Largest number of bytes of addresses that this may take, those of the interpreter included."""

TRIED = 60
"""Seconds of the clock for the same, on a busy machine."""

SCANNER_SECONDS = 120
"""Longest time of one scanner of `inspect --second-opinion` for one file."""


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

GRAPH_SIDE = (8, 4096)
"""Smallest and largest side of a graph's input, in pixels."""

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

BRACED = 1_000_000
"""Largest number of names in one brace range of a source."""

LABEL_DIGITS = 9
"""Largest number of digits of a class index."""

UNPACKED = 16
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

EXTENDED = 8
"""Most policies in one chain of `extends`."""


# --- reports, bundles, packs, ledgers ---

IMAGES = 10**8
"""Most images of a measurement: an interval needs memory for each."""

COMPARED_IMAGES = 1_000_000
"""Most images of a comparison: the test takes seconds for so many, and a count beyond comes from no gate."""

CALIBRATION_BYTES = 16 << 20
"""Largest table of trusted models."""

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

PACKED = 256
"""Most triggers, and most texts, of a pack."""

PICTURE_PIXELS = 1 << 22
"""Most pixels of its pictures: a small file can claim to be a huge image."""

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


# --- jobs of GitHub ---

ACTION_BYTES = 256 << 20
"""Largest report that a job publishes."""

EVENT_BYTES = 32 << 20
"""Largest event file; GitHub's limit for a payload is 25 MB."""
