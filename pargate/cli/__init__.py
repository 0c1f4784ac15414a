"""The command line: words, colours and exit codes; everything else is a library call away."""
