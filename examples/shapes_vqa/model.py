"""The untrained LlavaForConditionalGeneration and its forward over packed questions.

Shapes: B images, Q questions an image, L tokens in a question's slot, V visual tokens (144), P = V + 1 tokens before
the first question (the begin mark and the image), S = P + Q * L, H width (128).
"""

import math

import torch
from shapes import GRID, PATCH, SIDE
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from words import BOS, EOS, IMAGE, PAD, WORDS

WIDTH = 128
NUM_VISUAL = GRID * GRID
NUM_PREFIX = NUM_VISUAL + 1
FEATURE_LAYER = -2


def build_model() -> LlavaForConditionalGeneration:
    """A CLIP tower (5 layers, with class token), a two-layer projector and a Llama (8 layers, 4 heads, 2 KV heads)."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        image_seq_length=NUM_VISUAL,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=4
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and ".layers." in name:
                # Variance-preserving, with the branches' outputs smaller so that eight of them do not drown the input.
                out = name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight"))
                weight.normal_(0, weight.shape[1] ** -0.5 * (0.25 if out else 1.0))
        for name, weight in model.model.vision_tower.named_parameters():
            if name.endswith("patch_embedding.weight"):
                weight.normal_(0, weight[0].numel() ** -0.5)
            elif name.endswith("position_embedding.weight"):
                weight.normal_(0, 0.3)
        model.model.language_model.embed_tokens.weight.normal_(0, 0.5)
        model.lm_head.weight.normal_(0, WIDTH**-0.5)
    return model


def pixel_values(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [B,96,96,3] to what the processor makes of the same image: float32 [B,3,96,96] in -1..1."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def tower_features(model, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature-layer states with the class token [B,1+V,H] and the tower's last pooled class token [B,H]."""
    out = model.model.vision_tower(pixel_values(pixels), output_hidden_states=True)
    return out.hidden_states[FEATURE_LAYER], out.pooler_output


@torch.no_grad()
def standardise_projector(model, features: torch.Tensor) -> None:
    """Start the projector so that these features [N,H] enter with mean 0 and deviation 1, and leave near 0.5.

    Most of a tower's feature power is the same in every patch; without this the projector first has to unlearn it.
    """
    projector = model.model.multi_modal_projector
    mean, deviation = features.mean(0), features.std(0) + 1e-5
    first, second = projector.linear_1, projector.linear_2
    first.weight.normal_(0, WIDTH**-0.5).div_(deviation)
    first.bias.copy_(-first.weight @ mean)
    second.weight.normal_(0, WIDTH**-0.5)
    second.bias.zero_()
    out = projector(features)
    second.weight.mul_(0.5 / (out - out.mean(0)).std())
    second.bias.copy_(-projector(features).mean(0))


def packed_layout(num_questions: int, slot: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask (bool [1,1,S,S]) and positions ([1,S]) of one image with questions that do not see each other.

    Every question sees the image and itself only, at the positions that it would have alone, so that the packed
    forward gives the same numbers as one prompt for each question.
    """
    within = torch.arange(num_questions * slot, device=device)
    group = torch.cat([torch.full((NUM_PREFIX,), -1, device=device), within // slot])  # [S]
    position = torch.cat([torch.arange(NUM_PREFIX, device=device), NUM_PREFIX + within % slot])  # [S]
    order = torch.arange(len(group), device=device)
    same = (group[None] == -1) | (group[None] == group[:, None])
    return (same & (order[None] <= order[:, None]))[None, None], position[None]


def packed_logits(model, features: torch.Tensor, tokens: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Logits [B,Q,K,words] at K places of each question's slot.

    features: patch features [B,V,H] of the tower; tokens: [B,Q,L] words padded on the right; at: [B,Q,K] places.
    """
    language = model.model.language_model
    num_images, num_questions, slot = tokens.shape
    visual = model.model.multi_modal_projector(features)  # [B,V,H]
    begin = language.embed_tokens.weight[BOS].expand(num_images, 1, -1)
    words = language.embed_tokens(tokens.reshape(num_images, -1))  # [B,Q*L,H]
    mask, positions = packed_layout(num_questions, slot, tokens.device)
    states = language(
        inputs_embeds=torch.cat([begin, visual, words], 1),
        attention_mask=mask.expand(num_images, -1, -1, -1),
        position_ids=positions.expand(num_images, -1),
        use_cache=False,
    ).last_hidden_state[:, NUM_PREFIX:]  # [B,Q*L,H]
    index = at + torch.arange(num_questions, device=at.device)[:, None] * slot  # [B,Q,K]
    picked = states.gather(1, index.reshape(num_images, -1, 1).expand(-1, -1, states.shape[-1]))
    return model.lm_head(picked).reshape(*at.shape, -1)


def num_parameters(model) -> int:
    return sum(math.prod(p.shape) for p in model.parameters())
