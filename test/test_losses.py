import math

import pytest
import torch
from conftest import keep_top, make_batch
from hypothesis import given
from hypothesis import strategies as st

from espnet_ctckd.choices import InputError
from espnet_ctckd.losses import LOSS_CHOICES
from espnet_ctckd.losses.frame import blank_factorized_kl, guided_ctc, kl
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors, log_complement

TEACHER = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.2, 0.2, 0.6]]
STUDENT = [[0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]]
VECTORS = [
    (1.0, [0.026812, 0.196827, 0.036690, 0.081093], 0.341422, 0.138960),
    (2.0, [0.029528, 0.242877, 0.074723, 0.080451], 0.427579, 0.161664),
]
LN2, LN3 = math.log(2), math.log(3)


def dense(log_probs, blank=0):
    """A teacher of one utterance from (T, V) log-probabilities."""
    log_probs = torch.as_tensor(log_probs, dtype=torch.float64).unsqueeze(0)
    return FramePosteriors(log_probs, torch.tensor([log_probs.size(1)]), blank)


def log(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def values(student, teacher, temperature=1.0):
    """Loss of one utterance, as a list."""
    return kl(student.unsqueeze(0), teacher, temperature=temperature)[0].tolist()


# The same from the formula, with nothing but math.log: what kl is held against.


def slow_softmax(scores, temperature):
    top = max(scores)
    powers = [math.exp((s - top) / temperature) for s in scores]
    return [p / math.fsum(powers) for p in powers]


def slow_divergence(p, q):
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)


def slow_kl(scores_p, scores_q, temperature):
    p = slow_softmax(scores_p, temperature)
    return temperature**2 * slow_divergence(p, slow_softmax(scores_q, temperature))


def slow_top_k(log_p, ids, scores_q, temperature):
    """Bucket KL: the rest of the teacher is spread evenly, softened, and added up."""
    tokens = len(scores_q)
    p = [0.0] * tokens
    for token, value in zip(ids, log_p):
        p[token] = math.exp(value)
    rest = 1.0 - math.fsum(p)
    others = [token for token in range(tokens) if token not in ids]
    for token in others:
        p[token] = rest / len(others)
    softened = [value ** (1.0 / temperature) for value in p]
    p = [value / math.fsum(softened) for value in softened]
    q = slow_softmax(scores_q, temperature)
    bucketed = [
        [x[token] for token in ids] + [math.fsum(x[token] for token in others)]
        for x in (p, q)
    ]
    return temperature**2 * slow_divergence(*bucketed)


@st.composite
def frames(draw, scale=8.0):
    """Scores of teacher and student over the same tokens."""
    tokens = draw(st.integers(2, 6))
    score = st.floats(-scale, scale).map(lambda x: round(x, 3))
    scores = st.lists(score, min_size=tokens, max_size=tokens)
    return draw(scores), draw(scores)


temperatures = st.sampled_from([0.5, 1.0, 2.0, 5.0])


def log_softmax(scores):
    return torch.tensor([scores], dtype=torch.float64).log_softmax(-1)  # (1, V)


@pytest.mark.parametrize(("temperature", "expected", "total", "mean"), VECTORS)
def test_kl_gives_the_published_vectors(temperature, expected, total, mean):
    found = values(log(STUDENT), dense(log(TEACHER)), temperature)
    assert found == pytest.approx(expected, abs=5e-7)
    assert sum(found) == pytest.approx(total, abs=1e-6)
    assert (found[1] + found[3]) / 2 == pytest.approx(mean, abs=1e-6)


def test_kl_gives_what_is_computed_by_hand():
    third, half, quarter = 1 / 3, 1 / 2, 1 / 4
    teacher = [
        [[half, quarter, quarter], [1.0, 0.0, 0.0], [third, third, third]],
        [[half, quarter, quarter], [quarter, quarter, half], [0.0, half, half]],
    ]
    student = [
        [[third, third, third], [half, quarter, quarter], [third, third, third]],
        [[quarter, half, quarter], [half, quarter, quarter], [half, quarter, quarter]],
    ]
    expected = [[LN3 - 1.5 * LN2, LN2, 0.0], [LN2 / 4, LN2 / 4, LN2]]
    log_probs = log(teacher).clamp(min=LOG_ZERO)
    posteriors = FramePosteriors(log_probs, torch.tensor([3, 3]), blank=0)
    found = kl(log(student), posteriors, temperature=1.0)
    torch.testing.assert_close(
        found, torch.tensor(expected).double(), atol=1e-7, rtol=0
    )


def test_tempered_kl_gives_what_is_computed_by_hand():
    # (16, 1, 1) / 18 becomes (4, 1, 1) / 6 at tau = 2; the student is (1, 1, 1) / 3.
    teacher = dense(log([[16 / 18, 1 / 18, 1 / 18]]))
    found = values(torch.zeros(1, 3).double(), teacher, 2.0)
    assert found == pytest.approx([4 * LN2 / 3], abs=1e-12)


def test_top_k_kl_gives_what_is_computed_by_hand():
    teacher = dense(log([[1 / 2, 1 / 4, 1 / 8, 1 / 8]]))
    student = log([[1 / 4, 1 / 4, 3 / 8, 1 / 8]])
    top = values(student, keep_top(teacher, 2))
    assert top == pytest.approx([LN2 / 4], abs=1e-12)
    assert values(student, teacher) == pytest.approx([LN2 / 2 - LN3 / 8], abs=1e-12)


@given(frames(), temperatures)
def test_kl_is_that_of_torch(case, temperature):
    teacher, student = map(log_softmax, case)
    expected = temperature**2 * torch.nn.functional.kl_div(
        (student / temperature).log_softmax(-1),
        (teacher / temperature).log_softmax(-1),
        log_target=True,
        reduction="none",
    ).sum(-1)
    found = values(student, dense(teacher), temperature)
    assert found == pytest.approx(expected.tolist(), abs=1e-12)


@given(frames(), temperatures)
def test_kl_is_that_of_the_formula(case, temperature):
    teacher, student = case
    found = values(
        torch.tensor([student], dtype=torch.float64), dense([teacher]), temperature
    )
    expected = slow_kl(teacher, student, temperature)
    assert found == pytest.approx([expected], rel=1e-9, abs=1e-12)


@given(frames(), st.data(), temperatures)
def test_top_k_kl_is_that_of_the_formula(case, data, temperature):
    scores, student = case
    tokens = len(scores)
    kept = data.draw(st.integers(1, tokens - 1), label="kept")
    blank = data.draw(st.integers(0, tokens - 1), label="blank")
    teacher = keep_top(dense(log_softmax(scores), blank), kept)
    expected = slow_top_k(
        teacher.log_probs[0, 0].tolist(),
        teacher.ids[0, 0].tolist(),
        student,
        temperature,
    )
    found = values(torch.tensor([student], dtype=torch.float64), teacher, temperature)
    assert found == pytest.approx([expected], rel=1e-7, abs=1e-10)


@given(frames(), temperatures)
def test_top_k_kl_of_all_tokens_is_the_dense_one(case, temperature):
    teacher, student = map(log_softmax, case)
    everything = keep_top(dense(teacher), len(case[0]))
    assert values(student, everything, temperature) == pytest.approx(
        values(student, dense(teacher), temperature), rel=1e-9, abs=1e-12
    )


@given(frames(), st.data(), temperatures)
def test_top_k_kl_is_the_dense_one_of_the_evenly_spread_rest_in_a_bucket(
    case, data, temperature
):
    scores, student = map(log_softmax, case)
    tokens = scores.size(-1)
    kept = data.draw(st.integers(1, tokens - 1), label="kept")
    top = keep_top(dense(scores), kept)
    ids = top.ids[0]  # (1, K)
    rest = -torch.expm1(top.log_probs[0].logsumexp(-1, keepdim=True))  # (1, 1)
    spread = (rest / (tokens - kept)).log().expand(1, tokens)
    spread = spread.scatter(-1, ids, top.log_probs[0])  # (1, V)

    def bucket(x):
        soft = (x / temperature).softmax(-1)
        inside = soft.gather(-1, ids)
        outside = soft.scatter(-1, ids, 0.0).sum(-1, keepdim=True)
        return torch.cat([inside, outside], -1).log()  # (1, K + 1)

    at_1 = values(bucket(student), dense(bucket(spread)))
    assert values(student, top, temperature) == pytest.approx(
        [temperature**2 * at_1[0]], rel=1e-7, abs=1e-10
    )


@given(frames(scale=30.0), st.data())
def test_top_k_kl_is_never_above_the_dense_one(case, data):
    teacher, student = map(log_softmax, case)
    kept = data.draw(st.integers(1, len(case[0])), label="kept")
    all_of_it = values(student, dense(teacher))[0]
    top = values(student, keep_top(dense(teacher), kept))[0]
    assert top <= all_of_it * (1 + 1e-9) + 1e-9


@given(frames(), temperatures, st.booleans())
def test_kl_is_at_least_0(case, temperature, top):
    teacher = dense(log_softmax(case[0]))
    teacher = keep_top(teacher, 1) if top else teacher
    assert values(log_softmax(case[1]), teacher, temperature)[0] >= -1e-12


@given(frames(), temperatures)
def test_kl_of_a_teacher_to_itself_is_0(case, temperature):
    teacher = log_softmax(case[0])
    for posteriors in (dense(teacher), keep_top(dense(teacher), len(case[0]))):
        assert values(teacher, posteriors, temperature) == pytest.approx([0], abs=1e-12)
    top = keep_top(dense(teacher), 1)  # exact at tau = 1, where nothing is spread
    assert values(teacher, top) == pytest.approx([0], abs=1e-9)


@given(frames())
def test_kl_is_that_of_the_blank_and_that_of_the_other_tokens(case):
    p, q = (slow_softmax(scores, 1.0) for scores in case)
    other_p, other_q = 1.0 - p[0], 1.0 - q[0]
    of_blank = slow_divergence([p[0], other_p], [q[0], other_q])
    conditional = slow_divergence(
        [x / math.fsum(p[1:]) for x in p[1:]], [x / math.fsum(q[1:]) for x in q[1:]]
    )
    found = values(torch.tensor([case[1]], dtype=torch.float64), dense([case[0]]))
    # The complement of a blank near 1 has lost its last digits, hence the floor.
    room = 1e-12 / min(1.0, 1e3 * other_p, 1e3 * other_q)
    assert found == pytest.approx([of_blank + other_p * conditional], abs=room)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_with_no_mass_outside_the_kept_tokens_is_still_corrected(
    dtype, temperature
):
    teacher = keep_top(dense(log([[0.5, 0.3, 0.1, 0.1]])), 2)
    teacher = FramePosteriors(
        teacher.log_probs.to(dtype), teacher.lengths, 0, teacher.ids
    )
    margin = 60.0 * temperature
    student = torch.tensor([[[margin, margin, 0.0, 0.0]]], dtype=dtype)
    student.requires_grad_()
    loss = kl(student, teacher, temperature=temperature)
    # The teacher's rest of 0.2, softened, against a student of e^-60 there.
    expected = slow_top_k(
        teacher.log_probs[0, 0].double().tolist(),
        teacher.ids[0, 0].tolist(),
        student[0, 0].tolist(),
        temperature,
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient[0, 0, 2:] < 0).all())  # more mass is wanted there


@pytest.mark.parametrize("kept", [None, 2, 4])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_certain_teacher_and_student_have_a_finite_loss(kept, temperature):
    certain = torch.tensor([[0.0, LOG_ZERO, LOG_ZERO, LOG_ZERO]])
    teacher = FramePosteriors(certain.unsqueeze(0), torch.tensor([1]), blank=0)
    if kept is not None:
        teacher = keep_top(teacher, kept)
    right = torch.tensor([[[300.0, 0.0, 0.0, 0.0]]], requires_grad=True)
    wrong = torch.tensor([[[0.0, 300.0, 0.0, 0.0]]], requires_grad=True)
    good = kl(right, teacher, temperature=temperature)
    bad = kl(wrong, teacher, temperature=temperature)
    assert good.item() == pytest.approx(0.0, abs=1e-4)
    assert bad.item() == pytest.approx(300.0 * temperature, rel=1e-4)
    for loss, logits in ((good, right), (bad, wrong)):
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("kept", [None, 2, 3, 5])
def test_float32_agrees_with_float64(kept):
    exact = make_batch(kept=kept)
    rough = make_batch(kept=kept, dtype=torch.float32)
    for temperature in (1.0, 2.0):
        found = kl(rough.logits, rough.teacher, temperature=temperature)
        expected = kl(exact.logits, exact.teacher, temperature=temperature)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_complement_is_exact_and_its_gradient_finite():
    p = [1e-9, 0.25, 0.5, 1.0 - 1e-9, 1.0]
    log_p = torch.tensor(p, dtype=torch.float64).log().requires_grad_()
    found = log_complement(log_p)
    expected = [math.log1p(-x) if x < 1.0 else LOG_ZERO for x in p]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), log_p)
    assert bool(torch.isfinite(gradient).all())
    assert gradient[-1].item() == 0.0
    above = torch.tensor([1e-7, 1.0])  # rounding may put a log-probability above 0
    assert log_complement(above).tolist() == [LOG_ZERO, LOG_ZERO]


# Every loss from its formula, with nothing but math, on the outcomes that are compared:
# all tokens, or the kept ones and one for all others.


def slow_outcomes(scores_p, scores_q, ids, temperature):
    """Probabilities of teacher and student at tau, and the tokens (None: the rest)."""
    tokens = len(scores_p)
    q = slow_softmax(scores_q, temperature)
    if ids is None:
        return slow_softmax(scores_p, temperature), q, list(range(tokens))
    p = slow_softmax(scores_p, 1.0)
    others = [token for token in range(tokens) if token not in ids]
    rest = 1.0 - math.fsum(p[token] for token in ids)
    spread = [
        p[token] if token in ids else rest / len(others) for token in range(tokens)
    ]
    softened = [value ** (1.0 / temperature) for value in spread]
    p = [value / math.fsum(softened) for value in softened]
    bucketed = [
        [x[token] for token in ids] + [math.fsum(x[token] for token in others)]
        for x in (p, q)
    ]
    return *bucketed, [*ids, None]


def slow_reverse_kl(p, q, where, *, temperature):
    return temperature**2 * slow_divergence(q, p)


def slow_cross_entropy(p, q, where, *, temperature):
    return -(temperature**2) * math.fsum(a * math.log(b) for a, b in zip(p, q))


def slow_l2(p, q, where):
    return math.fsum((a - b) ** 2 for a, b in zip(p, q))


def slow_split(p, q, one):
    """KL of one outcome or not, mass of the others, KL among them."""
    others_p, others_q = (x[:one] + x[one + 1 :] for x in (p, q))
    mass_p, mass_q = math.fsum(others_p), math.fsum(others_q)
    binary = slow_divergence([p[one], mass_p], [q[one], mass_q])
    among = slow_divergence(
        [x / mass_p for x in others_p], [x / mass_q for x in others_q]
    )
    return binary, mass_p, among


def slow_factorized(p, q, where, *, blank_weight, nonblank_weight, only=False):
    blank = where.index(BLANK)
    binary, mass, among = slow_split(p, q, blank)
    if only and p[blank] >= max(x for x, token in zip(p, where) if token is not None):
        among = 0.0
    return blank_weight * binary + nonblank_weight * mass * among


def slow_decoupled(p, q, where, *, temperature, target_weight, nontarget_weight):
    kept = [x for x, token in zip(p, where) if token is not None]
    binary, _, among = slow_split(p, q, kept.index(max(kept)))
    return temperature**2 * (target_weight * binary + nontarget_weight * among)


def slow_guided(p, q, where, *, log=False):
    kept = [x for x, token in zip(p, where) if token is not None]
    probability = q[kept.index(max(kept))]
    return -math.log(probability) if log else -probability


BLANK = 1
WEIGHTS = {"target_weight": 0.7, "nontarget_weight": 3.0}
SIDES = {"blank_weight": 0.7, "nonblank_weight": 3.0}
FORMULAS = [
    ("reverse_kl", {"temperature": 1.0}, slow_reverse_kl, {}),
    ("reverse_kl", {"temperature": 2.0}, slow_reverse_kl, {}),
    ("cross_entropy", {"temperature": 1.0}, slow_cross_entropy, {}),
    ("cross_entropy", {"temperature": 3.0}, slow_cross_entropy, {}),
    ("l2", {}, slow_l2, {}),
    ("blank_factorized_kl", SIDES, slow_factorized, SIDES),
    (
        "blank_factorized_kl",
        {**SIDES, "nonblank_frames_only": True},
        slow_factorized,
        {**SIDES, "only": True},
    ),
    ("decoupled", {"temperature": 1.0, **WEIGHTS}, slow_decoupled, WEIGHTS),
    ("decoupled", {"temperature": 4.0, **WEIGHTS}, slow_decoupled, WEIGHTS),
    ("guided_ctc", {}, slow_guided, {}),
    ("guided_ctc", {"log": True}, slow_guided, {"log": True}),
]


@given(frames(scale=4.0), st.data())
@pytest.mark.parametrize(("name", "conf", "formula", "same"), FORMULAS)
@pytest.mark.parametrize("top", [False, True])
def test_a_loss_is_that_of_its_formula(name, conf, formula, same, top, case, data):
    scores, student = case
    # A tie would leave it open which token the teacher means.
    scores = [score + 0.01 * i for i, score in enumerate(scores)]
    teacher = dense(log_softmax(scores), BLANK)
    ids = None
    if top and len(scores) > 2:
        kept = data.draw(st.integers(2, len(scores) - 1), label="kept")
        teacher = keep_top(teacher, kept)
        ids = teacher.ids[0, 0].tolist()
    p, q, where = slow_outcomes(scores, student, ids, conf.get("temperature", 1.0))
    options = {**same, **{k: v for k, v in conf.items() if k == "temperature"}}
    logits = torch.tensor([[student]], dtype=torch.float64)
    found = LOSS_CHOICES[name].fn(logits, teacher, **conf).item()
    expected = formula(p, q, where, **options)
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_every_loss_is_held_against_its_formula():
    assert {name for name, *_ in FORMULAS} | {"kl"} == set(LOSS_CHOICES)


@given(frames())
def test_the_factorized_kl_is_kl_to_the_last_digit(case):
    teacher, student = dense(log_softmax(case[0]), BLANK), log_softmax(case[1])
    found = blank_factorized_kl(student.unsqueeze(0), teacher).item()
    assert found == pytest.approx(values(student, teacher)[0], abs=1e-12)


@given(frames(), temperatures)
def test_cross_entropy_has_the_gradient_of_kl(case, temperature):
    teacher, student = dense(log_softmax(case[0])), log_softmax(case[1]).unsqueeze(0)
    gradients = []
    for name in ("kl", "cross_entropy"):
        logits = student.clone().requires_grad_()
        loss = LOSS_CHOICES[name].fn(logits, teacher, temperature=temperature)
        gradients += torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_guided_ctc_is_a_probability_and_not_its_logarithm():
    teacher, student = dense(log(TEACHER)), log(STUDENT).unsqueeze(0)
    assert guided_ctc(student, teacher)[0].tolist() == pytest.approx(
        [-0.6, -0.5, -0.8, -0.4]
    )


@pytest.mark.parametrize(
    ("name", "conf", "message"),
    [
        ("decoupled", {"temperature": 0}, "'decoupled' got temperature = 0"),
        (
            "decoupled",
            {"temperature": 1, "target_weight": -1},
            "'decoupled' got target_weight = -1",
        ),
        ("blank_factorized_kl", {"blank_weight": "1"}, "got blank_weight = '1'"),
        ("guided_ctc", {"log": 1}, "'guided_ctc' got log = 1; give true or false"),
        ("reverse_kl", {"temperature": None}, "'reverse_kl' got temperature = None"),
    ],
)
def test_options_without_sense_are_refused(name, conf, message):
    with pytest.raises(InputError, match=message):
        LOSS_CHOICES[name].fn(log(STUDENT).unsqueeze(0), dense(log(TEACHER)), **conf)
