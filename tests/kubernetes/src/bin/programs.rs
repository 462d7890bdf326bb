//! Builds every program of other people that the cluster tests run, and says where they lie: `make kubernetes-programs`.

use std::process::ExitCode;

use twinsite_kubernetes::programs::{Program, Programs};

fn main() -> ExitCode {
    if let Some(reason) = Programs::missing(Program::ALL) {
        eprintln!("programs: {reason}");
        return ExitCode::FAILURE;
    }
    match Programs::obtain(Program::ALL) {
        Ok(programs) => {
            for &program in Program::ALL {
                println!("{}", programs.path(program).display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("programs: {error:#}");
            ExitCode::FAILURE
        }
    }
}
