"""The subcommands of `miaotui`: a module each, with `add_arguments(parser)` and `main(args) -> int`."""
