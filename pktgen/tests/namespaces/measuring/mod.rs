//! Tests whose figures other work on the machine would change: each has it alone. `./dev test` knows them by this module's name.

mod connections;
mod faults;
mod impaired;
mod methods;
mod pace;
mod rates;
mod reflect;
