"""pass@k: the chance that one of k sampled programs is right."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate from `n` samples of which `c` are right: 1 - C(n-c, k) / C(n, k).

    As a product, which no large binomial enters (Chen et al. 2021, arXiv 2107.03374, section 2.1).

    Raises ValueError where k samples can't be drawn from n, or c is not among them.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} can't be told from {n} samples of which {c} are right.")
    if n - c < k:
        return 1.0
    none_right = 1.0
    for i in range(n - c + 1, n + 1):
        none_right *= 1.0 - k / i
    return 1.0 - none_right
