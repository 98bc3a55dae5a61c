"""The published model is FuxiCTR's TransAct with another mask: the same weights must give the same scores."""

import copy
from pathlib import Path

import pytest
import torch

from fuxictr_mm.models import Transformer_DCNv2
from tests.synthetic import MODEL_KWARGS, tiny_challenge_batch, tiny_feature_map

transact = pytest.importorskip("model_zoo.LongCTR", reason="this fuxictr carries no models").TransAct

WIDTHS = {
    "dcn_hidden_units": [8, 6],
    "mlp_hidden_units": [5],
    "dim_feedforward": 9,
    "first_k_cols": 3,
    "transformer_layers": 2,
    "concat_max_pool": True,
    "net_dropout": 0.2,  # a dropout layer counts in the names of the MLP, so both need one
}


@pytest.mark.parametrize("padding_mask", ["correct", "as_published"])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_host_checkpoint_gives_the_hosts_scores(padding_mask: str, tmp_path: Path) -> None:
    feature_map = tiny_feature_map(tmp_path)
    feature_map.default_emb_dim = MODEL_KWARGS["embedding_dim"]
    common = {**MODEL_KWARGS, **WIDTHS, "model_root": str(tmp_path)}
    host = transact(feature_map, **common).eval()
    ours = Transformer_DCNv2(feature_map, padding_mask=padding_mask, **common).eval()
    with torch.no_grad():
        for name, parameter in host.named_parameters():
            parameter.normal_(std=0.4)
            if "embedding_layers" in name:
                parameter[0] = 0
    weights = {
        name.replace("transformer_encoders.", "transformer_encoder."): w for name, w in host.state_dict().items()
    }
    ours.load_state_dict(weights, strict=True)
    batch_dict, item_dict, mask = tiny_challenge_batch(feature_map, (4, 0, 6, 1, 3))
    # The published code hands 1 = real to an encoder that ignores what is True; TransAct turns the mask round first.
    host_mask = mask if padding_mask == "correct" else 1 - mask
    host_batch = (dict(batch_dict), copy.deepcopy(item_dict), host_mask)  # the host writes into its batch
    with torch.no_grad():
        expected = host(host_batch)["y_pred"]
        torch.testing.assert_close(ours((batch_dict, item_dict, mask))["y_pred"], expected, rtol=0, atol=1e-6)
    assert expected.std() > 1e-3
