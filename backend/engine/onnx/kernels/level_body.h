// All kernels of one level. A level_*.c defines BK_LANES, BK_TABLE and BK_NAME, then includes this once.
#include "level.h"

#include "vec.h"

#include "rowwise_body.h"

#include "attention_body.h"

const bk_level_table BK_TABLE = {
    .name = BK_NAME,
    .attention_scratch_bytes = attention_scratch_bytes,
    .attention = attention,
    .act = act,
    .residual_norm = residual_norm,
    .pool = pool,
};
