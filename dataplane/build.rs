//! Compiles the XDP classifier to BPF.

fn main() {
    shunt_bpf_build::compile("classifier");
}
