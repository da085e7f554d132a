/* What of XLA's foreign function interface is needed to be called by it: the layout of its version 0, whose later
 * releases only append. Names are XLA's (xla/ffi/api/c_api.h), so that one finds them there. */
#ifndef FASTRNN_XLA_FFI_H
#define FASTRNN_XLA_FFI_H

#include <stddef.h>
#include <stdint.h>

enum { XLA_FFI_MAJOR = 0 };
enum { XLA_FFI_METADATA = 1 };                                          /* types of extensions */
enum { XLA_FFI_PRED = 1, XLA_FFI_S32 = 4, XLA_FFI_S64 = 5, XLA_FFI_U8 = 6, XLA_FFI_F32 = 11, XLA_FFI_F64 = 12 };
enum { XLA_FFI_STRING = 4 };                                            /* types of attributes */
enum { XLA_FFI_INVALID_ARGUMENT = 3 };                                  /* codes of errors */

typedef struct XLA_FFI_Error XLA_FFI_Error;

typedef struct XLA_FFI_Extension_Base {
    size_t struct_size;
    int type;
    struct XLA_FFI_Extension_Base *next;
} XLA_FFI_Extension_Base;

typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    int major_version, minor_version;
} XLA_FFI_Api_Version;

typedef struct {
    size_t struct_size;
    XLA_FFI_Api_Version api_version; /* OUT: what a handler is made for */
    uint32_t traits;
} XLA_FFI_Metadata;

typedef struct {
    XLA_FFI_Extension_Base extension_base;
    XLA_FFI_Metadata *metadata;
} XLA_FFI_Metadata_Extension;

typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    const char *message; /* copied */
    int errc;
} XLA_FFI_Error_Create_Args;

typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    XLA_FFI_Api_Version api_version;
    const void *internal_api;
    XLA_FFI_Error *(*create_error)(XLA_FFI_Error_Create_Args *);
} XLA_FFI_Api;

typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    int dtype;
    void *data;
    int64_t rank;
    int64_t *dims;
} XLA_FFI_Buffer;

typedef struct {
    const char *ptr;
    size_t len;
} XLA_FFI_ByteSpan;

/* Arguments, or results: both are buffers. */
typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    int64_t size;
    int *types;
    void **buffers;
} XLA_FFI_Buffers;

typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    int64_t size;
    int *types;
    XLA_FFI_ByteSpan **names;
    void **attrs;
} XLA_FFI_Attrs;

typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    const XLA_FFI_Api *api;
    void *ctx;
    int stage;
    XLA_FFI_Buffers args, rets;
    XLA_FFI_Attrs attrs;
} XLA_FFI_CallFrame;

/* XLA asks for the version once, when the handler is registered. Returns whether this was such a call. What a runtime of
 * another major version asks for it is not told, so that it refuses the handler. */
static inline int xla_ffi_is_asking(XLA_FFI_CallFrame *frame) {
    for (XLA_FFI_Extension_Base *its = frame->extension_start; its != NULL; its = its->next)
        if (its->type == XLA_FFI_METADATA) {
            XLA_FFI_Metadata *metadata = ((XLA_FFI_Metadata_Extension *)its)->metadata;
            metadata->api_version.major_version = XLA_FFI_MAJOR;
            metadata->api_version.minor_version = frame->api->api_version.minor_version;
            return 1;
        }
    return 0;
}

static inline XLA_FFI_Error *xla_ffi_error(XLA_FFI_CallFrame *frame, const char *message) {
    XLA_FFI_Error_Create_Args args = {
        .struct_size = sizeof(args), .message = message, .errc = XLA_FFI_INVALID_ARGUMENT};
    return frame->api->create_error(&args);
}

#endif
