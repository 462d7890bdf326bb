//! Both ends against each other in virtual time, over a line that splits the stream at random.

mod faults;
mod flows;
mod hostile;
mod login;
mod pair;
mod raw;
mod rules;
mod rules_of_login;
mod storm;
