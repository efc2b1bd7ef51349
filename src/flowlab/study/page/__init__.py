"""How the report's page looks: style, HTML pieces, pictures. Knows nothing of the study's questions."""
