// The C side of uniffi's scaffolding, as much of it as is used, and one function a crossing: what would be a call, a copy and a free is one.
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct { uint64_t capacity; uint64_t len; uint8_t *data; } RustBuffer;
typedef struct { int8_t code; RustBuffer error; } RustCallStatus;
typedef struct { int32_t len; const uint8_t *data; } ForeignBytes;

uint32_t ffi_everstep_go_uniffi_contract_version(void);
void ffi_everstep_go_rustbuffer_free(RustBuffer, RustCallStatus *);

uint16_t uniffi_everstep_go_checksum_func_abi(void);
uint16_t uniffi_everstep_go_checksum_func_open(void);
uint16_t uniffi_everstep_go_checksum_func_attach(void);
uint16_t uniffi_everstep_go_checksum_func_wake_fd(void);
uint16_t uniffi_everstep_go_checksum_func_call(void);
uint16_t uniffi_everstep_go_checksum_func_submit(void);
uint16_t uniffi_everstep_go_checksum_func_try_drain(void);
uint16_t uniffi_everstep_go_checksum_func_cancel(void);
uint16_t uniffi_everstep_go_checksum_func_close(void);

RustBuffer uniffi_everstep_go_fn_func_abi(RustCallStatus *);
uint64_t uniffi_everstep_go_fn_func_open(ForeignBytes, RustCallStatus *);
uint32_t uniffi_everstep_go_fn_func_attach(uint64_t, RustCallStatus *);
int32_t uniffi_everstep_go_fn_func_wake_fd(uint64_t, uint32_t, RustCallStatus *);
RustBuffer uniffi_everstep_go_fn_func_call(uint64_t, uint32_t, ForeignBytes, RustCallStatus *);
int8_t uniffi_everstep_go_fn_func_submit(uint64_t, uint32_t, uint64_t, uint32_t, ForeignBytes, RustCallStatus *);
RustBuffer uniffi_everstep_go_fn_func_try_drain(uint64_t, uint32_t, uint32_t, RustCallStatus *);
void uniffi_everstep_go_fn_func_cancel(uint64_t, uint32_t, uint64_t, RustCallStatus *);
void uniffi_everstep_go_fn_func_close(uint64_t, uint64_t, RustCallStatus *);

static inline ForeignBytes es_bytes(const uint8_t *data, int32_t len) {
	ForeignBytes bytes = {len, data};
	return bytes;
}

static inline void es_free(RustBuffer buffer) {
	RustCallStatus status;
	memset(&status, 0, sizeof status);
	ffi_everstep_go_rustbuffer_free(buffer, &status);
}

// A byte string is four bytes of length, big-endian, and the bytes. What fits into `out` is copied and freed here; else `rest` keeps it and the
// caller makes room, copies and frees.
static inline int64_t es_take(RustBuffer answer, uint8_t *out, int64_t room, RustBuffer *rest) {
	int64_t length = answer.len >= 4 ? (int64_t)answer.len - 4 : 0;
	if (length > room) {
		*rest = answer;
		return length;
	}
	if (length > 0) memcpy(out, answer.data + 4, (size_t)length);
	es_free(answer);
	return length;
}

static inline int64_t es_abi(uint8_t *out, int64_t room, RustBuffer *rest, RustCallStatus *status) {
	return es_take(uniffi_everstep_go_fn_func_abi(status), out, room, rest);
}

static inline uint64_t es_open(const uint8_t *config, int32_t len, RustCallStatus *status) {
	return uniffi_everstep_go_fn_func_open(es_bytes(config, len), status);
}

static inline int64_t es_call(uint64_t handle, uint32_t op, const uint8_t *frame, int32_t len, uint8_t *out, int64_t room, RustBuffer *rest,
                              RustCallStatus *status) {
	RustBuffer answer = uniffi_everstep_go_fn_func_call(handle, op, es_bytes(frame, len), status);
	return status->code == 0 ? es_take(answer, out, room, rest) : 0;
}

static inline int8_t es_submit(uint64_t handle, uint32_t client, uint64_t token, uint32_t op, const uint8_t *frame, int32_t len,
                               RustCallStatus *status) {
	return uniffi_everstep_go_fn_func_submit(handle, client, token, op, es_bytes(frame, len), status);
}

static inline int64_t es_try_drain(uint64_t handle, uint32_t client, uint32_t max, uint8_t *out, int64_t room, RustBuffer *rest,
                                   RustCallStatus *status) {
	RustBuffer answer = uniffi_everstep_go_fn_func_try_drain(handle, client, max, status);
	return status->code == 0 ? es_take(answer, out, room, rest) : 0;
}

// A duplicate of our own: the engine closes its descriptor when it ends, and the number may be another file's a moment later.
static inline int es_wake(uint64_t handle, uint32_t client, RustCallStatus *status) {
	int fd = uniffi_everstep_go_fn_func_wake_fd(handle, client, status);
	return status->code == 0 && fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
}
