"""The memory that `stage plan` works out beside the bytes that real modules keep, small, on the CPU.

    python -m tests.benchmarks.plan_memory

What autograd keeps of a training step (torch.autograd.graph.saved_tensors_hooks, each storage once), and keys and values
of an LLM that writes. The tests allow 15 %.
"""

from tests.stages.launch.counted_memory import CASES


def main() -> None:
    print("| step | planned, MB | counted, MB | planned / counted |\n|---|---|---|---|")
    for name, case in CASES.items():
        planned, counted = case()
        print(f"| {name} | {planned / 1e6:.2f} | {counted / 1e6:.2f} | {planned / counted:.2f} |")


if __name__ == "__main__":
    main()
