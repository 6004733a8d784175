fn main() {
    // Among others `-z nodelete`: Node unloads an addon with the last environment that loaded it, and a worker thread may be the only one, while threads of
    // the engine still run its code.
    napi_build::setup();
}
