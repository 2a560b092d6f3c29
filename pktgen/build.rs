//! Compiles the traffic source to BPF.

fn main() {
    shunt_bpf_build::compile("source");
}
