"""What a Report holds: rows, step_backward by itself, the diagnosis, plain data.

The mistake in it: the gradient of U is handed out transposed.

    python examples/inspect_report.py
"""

import json

from bptt_crosscheck import check_cell


class Elman:
    """h′ = tanh(W x + U h)."""

    def parameter_shapes(self, input_size, hidden_size):
        return {"W": (hidden_size, input_size), "U": (hidden_size, hidden_size)}

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,)}

    def step(self, xp, params, state, x):
        h = xp.tanh(x @ params["W"].T + state["h"] @ params["U"].T)
        return {"h": h}, (x, state["h"], h)

    def step_backward(self, params, cache, d_state):
        x, h, new_h = cache
        delta = d_state["h"] * (1 - new_h**2)
        return {"W": delta.T @ x, "U": h.T @ delta}, delta @ params["W"], {"h": delta @ params["U"]}


def main():
    report = check_cell(Elman(), steps=6, raise_exception=False)
    print("passed:", report.passed)

    case = report.cases[0]  # one case for each choice of cotangents
    print(f"\n{case.name}: every gradient against every reference")
    for row in case.rows:
        verdict = "agrees" if row.passed else f"{row.reason} at steps {row.wrong_steps}"
        print(
            f"  {row.gradient:4} {row.reference:6} "
            f"error {row.error_over_noise:.1e} times what rounding explains: {verdict}"
        )

    print("\nstep_backward by itself, given the true gradient of its state")
    for local in case.local:
        print(f"  {local.output:20} {'right' if local.passed else 'wrong'}")

    print("\ndiagnosis")
    for found in case.diagnosis:
        print(f"  {found.mistake} in {found.where}: {found.text}")

    data = report.to_dict()  # the same as plain data; report.to_json() is its text
    print("\nkeys of to_dict():", ", ".join(data))
    told = {name: data["environment"][name] for name in ("seed", "dtype")}
    print("environment:", json.dumps(told))


if __name__ == "__main__":
    main()
