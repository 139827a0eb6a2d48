// Four lanes with the platform's baseline instructions: SSE2 on x86-64, NEON on arm64.
#define BK_LANES 4
#define BK_TABLE bk_table_vec128
#define BK_NAME "vec128"
#include "level_body.h"
