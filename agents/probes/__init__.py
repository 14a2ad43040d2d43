"""How an agent measures its links: cheap, bounded, passive first."""
