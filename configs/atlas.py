"""The embedded default: the Atlas, a small model, two CPU cores, some minutes.

marker-lm demo --workdir=/tmp/marker_lm_demo
"""

from configs import default


def get_config(arg: str = ""):
    """`--config=configs/atlas.py:ARM` chooses the arm."""
    c = default.get_config(arg).unlock()
    c.taxonomy = "atlas"
    c.template = "compact"
    c.plan_arms = ("markers", "baseline", "shuffled")
    levers = ("domain", "format", "lang", "length_bucket", "task")
    c.markers.prompt_side = levers
    c.markers.completion_side = levers
    c.data.update(vocab_size=4352, vocab_balance=0.3)
    c.data.separator = "\n"
    c.model.update(width=160, layers=2, heads=2, kv_heads=2, head_size=64, ff=448)
    c.model.update(dtype="float32", scan=False)
    c.train.update(length=256, batch=8, epochs=1, warmup_steps=30, optimizer="muon")
    c.train.update(learning_rate=1e-2, final_learning_rate=1e-4, weight_decay=0.01)
    c.train.update(muon_learning_rate=0.01, beta2=0.99)
    c.train.loss_weights.completion_markers = 0.3
    c.train.update(eval_every=150, save_every=200, loss_blocks=8)
    c.decode.update(batch=64, max_tokens=200)
    c.eval.rows = 200
    return c.lock()
