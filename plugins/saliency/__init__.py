"""Vision saliency: how much attention the class token of a vision encoder pays to each patch."""
