from moe_ray.atomic import write_atomically as write_atomically
from moe_ray.atomic import write_text_atomically as write_text_atomically
