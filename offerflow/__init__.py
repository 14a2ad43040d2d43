"""The names under which other people's programs import parts of this distribution."""
