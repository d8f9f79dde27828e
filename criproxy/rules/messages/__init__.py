"""Operations on protobuf messages: field paths, rewriting, differences, decompression."""
