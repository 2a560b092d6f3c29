//! Compiles the traffic sink to BPF.

fn main() {
    shunt_bpf_build::compile("sink");
}
