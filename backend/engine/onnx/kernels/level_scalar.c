// The reference: one lane, so that the vector code becomes plain scalar C.
#define BK_LANES 1
#define BK_TABLE bk_table_scalar
#define BK_NAME "scalar"
#include "level_body.h"
